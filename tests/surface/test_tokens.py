"""Documents in tokens: what is set aside, and what is kept in a folder is what would be made anew."""

from pathlib import Path

import numpy as np
import pytest
from experiments_for_tests import documents
from tokenizers_for_tests import surface

from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.text.corpus import Document

TEXTS = [*documents(20), Document("the text", "code", "fusion"), Document("é wide 😀 text", "code", "fusion")]


def test_documents_that_are_too_long_or_cannot_be_spelled_are_set_aside() -> None:
    its = surface("wordpiece")
    short, long = Document("the text", "code", "fusion"), Document("the text " * 30 + "the", "code", "fusion")
    doubled = Document("the  text", "code", "fusion")  # WordPiece drops the second space
    read = tokenize_documents(its, [short, long, doubled], max_tokens=50)
    assert read.keys() == {short.id}
    assert read.set_aside.keys() == {long.id, doubled.id}
    assert read.set_aside[long.id].endswith("tokens, 'wordpiece' can hold 50")
    assert "tokenizer 'wordpiece' spells" in read.set_aside[doubled.id]


def test_a_document_of_just_the_right_length_is_read() -> None:
    its, document = surface("llama"), TEXTS[0]
    length = len(its.tokenize(document.text, document.is_complete).input_ids)
    assert tokenize_documents(its, [document], max_tokens=length).keys() == {document.id}
    assert tokenize_documents(its, [document], max_tokens=length - 1).set_aside.keys() == {document.id}


@pytest.mark.parametrize("folder", [None, "tokens"])
@pytest.mark.parametrize("family", ["llama", "neox", "unigram", "wordpiece"])
def test_each_document_is_cut_as_alone(tmp_path: Path, family: str, folder: str | None) -> None:
    its = surface(family)
    read = tokenize_documents(its, TEXTS, 10**6, folder and tmp_path / folder)
    assert list(read) == [d.id for d in TEXTS if d.id not in read.set_aside]
    assert len(read) + len(read.set_aside) == len(TEXTS)
    assert read
    for document in (d for d in TEXTS if d.id in read):
        alone = its.tokenize(document.text, document.is_complete)
        np.testing.assert_array_equal(read[document.id].input_ids, alone.input_ids)
        np.testing.assert_array_equal(read[document.id].ends, alone.ends)
        assert read.lengths[document.id] == len(alone.ends)
    assert read.largest_id == max(int(t.input_ids.max()) for t in read.values())


def kept(folder: Path, texts: list[Document], max_tokens: int = 10**6) -> tuple[TokenizedDocuments, int]:
    """What is read with this folder, and how many documents had to be cut for it."""
    counts: list[int] = []
    return tokenize_documents(surface("llama"), texts, max_tokens, folder, counts.append), sum(counts)


def test_a_folder_is_filled_once_for_a_set_of_documents(tmp_path: Path) -> None:
    """Whatever length is asked for; another set is another file."""
    first, cut = kept(tmp_path, TEXTS)
    again, cut_again = kept(tmp_path, TEXTS, max_tokens=20)
    assert (cut, cut_again) == (len(TEXTS), 0)
    assert 0 < len(again) < len(first)
    assert again.set_aside.keys() == first.keys() - again.keys()
    assert kept(tmp_path, TEXTS[1:])[1] == len(TEXTS) - 1
    assert kept(tmp_path / "none", [])[0].largest_id == -1
    assert len(kept(tmp_path / "none", [])[0]) == 0


def test_a_stop_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_documents(surface("llama"), TEXTS, 10**6, tmp_path, stop)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


@pytest.mark.parametrize("file", ["ids.bin", "ends.bin", "offsets.bin", "about.json"])
def test_a_file_cut_off_is_named(tmp_path: Path, file: str) -> None:
    kept(tmp_path, TEXTS)
    (place,) = (p for p in tmp_path.iterdir() if p.is_dir())
    (place / file).write_bytes((place / file).read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"llama-[0-9a-f]{24}' is cut off or damaged .*: remove it") as error:
        kept(tmp_path, TEXTS)
    assert str(place) in str(error.value)
