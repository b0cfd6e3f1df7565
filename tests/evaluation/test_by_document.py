"""Nats by document, kept in a file, against what went in."""

import math
from pathlib import Path

import numpy as np
import pytest

from knowfuse.evaluation import by_document, read_by_document, write_by_document
from knowfuse.text.document import Document

DOCUMENTS = [Document(text, domain, "test") for text, domain in (("one", "docs"), ("twoo", "code"), ("three", "docs"))]
ONE, TWO, THREE = (d.id for d in DOCUMENTS)
NATS = {"a": {ONE: 1 / 3, TWO: 2.0, THREE: 1e-300}, 'an, "odd"\nname': {ONE: 0.1 + 0.2, THREE: 7.0}}


def test_a_file_keeps_every_digit_and_who_cannot_read_what(tmp_path: Path) -> None:
    scores = by_document(NATS, DOCUMENTS)
    write_by_document(tmp_path / "documents.csv", scores)
    kept = read_by_document(tmp_path / "documents.csv")
    assert (kept.ids, kept.domains) == ([ONE, TWO, THREE], ["docs", "code", "docs"])
    np.testing.assert_array_equal(kept.num_bytes, [3, 4, 5])
    assert list(kept.nats) == list(NATS)
    for name, paid in kept.nats.items():
        np.testing.assert_array_equal(paid, [NATS[name].get(d, math.nan) for d in kept.ids])


def test_bits_per_byte_are_over_the_documents_that_all_can_read() -> None:
    shared = by_document(NATS, DOCUMENTS).shared()
    assert shared.ids == [ONE, THREE]
    assert shared.bits_per_byte("a") == {"docs": pytest.approx(1 / 3 / (math.log(2) * 8))}


def test_a_file_that_is_cut_off_at_the_end_of_a_line_is_found_by_the_figures_it_must_have(tmp_path: Path) -> None:
    scores = by_document({"a": NATS["a"]}, DOCUMENTS)
    rows = {"a": {**scores.bits_per_byte("a"), "mean": 1.0}}
    write_by_document(tmp_path / "documents.csv", scores)
    assert read_by_document(tmp_path / "documents.csv", rows).ids == [ONE, TWO, THREE]
    for kept in (1, 2):
        write_by_document(tmp_path / "documents.csv", scores.take(np.arange(kept)))
        with pytest.raises(
            ValueError, match=rf"of its {kept} documents 'a' pays .*and results\.json .*: python evaluate\.py"
        ):
            read_by_document(tmp_path / "documents.csv", rows)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a,b\n",
        "document,domain,bytes,a\nx,docs,12,0.5\ny,docs\n",
        "document,domain,bytes,a\nx,docs,12,abc\n",
        "document,domain,bytes,a\nx,docs,many,0.5\n",
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "documents.csv").write_text(content)
    with pytest.raises(ValueError, match=r"documents\.csv' is cut off or damaged"):
        read_by_document(tmp_path / "documents.csv")
