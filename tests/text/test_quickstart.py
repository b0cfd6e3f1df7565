"""The quickstart's text: real, in three domains, on no two sides, made once."""

from collections import Counter
from pathlib import Path

import pytest

from knowfuse.text import quickstart
from knowfuse.text.corpus import Corpus, Split
from knowfuse.text.quickstart import quickstart_corpus

QUOTAS: dict[Split, int] = {"fusion": 6_000, "validation": 3_000, "test": 2_000, "sources": 40_000}
SETTINGS = {
    "max_document_bytes": 400,
    "bytes_per_domain": 100_000,
    "fusion_bytes": 6_000,
    "validation_bytes": 3_000,
    "test_bytes": 2_000,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Path]:
    cache = tmp_path_factory.mktemp("cache")
    return quickstart_corpus(**SETTINGS, cache=str(cache)), cache


def test_quotas_are_filled_from_disjoint_documents(made: tuple[Corpus, Path]) -> None:
    corpus, _ = made
    assert corpus.domains == ["code", "docs", "prose"]
    assert max(Counter(d.id for d in corpus.documents).values()) == 1
    assert max(Counter(d.text for d in corpus.documents).values()) == 1
    assert all(0 < d.num_bytes <= 400 for d in corpus.documents)
    for domain in corpus.domains:
        for split, quota in QUOTAS.items():
            got = sum(d.num_bytes for d in corpus.split(split, domain=domain))
            # Pieces that are white space or repeated are left out: a little less than the quota is right too. The
            # last document of a side is whole, and may be large: `sources` has what is left.
            assert got > 0.8 * quota, (domain, split)


def test_domains_are_what_they_say(made: tuple[Corpus, Path]) -> None:
    """Code defines things, and has no docstrings; the others rarely begin like code."""
    corpus, _ = made
    begins = {
        domain: [
            d.text.lstrip().startswith(("def ", "class ", "@", "async ")) for d in corpus.split(*QUOTAS, domain=domain)
        ]
        for domain in corpus.domains
    }
    assert sum(begins["code"]) > 0.2 * len(begins["code"])
    for domain in ("docs", "prose"):
        assert sum(begins[domain]) < 0.02 * len(begins[domain])


def test_a_second_call_reads_the_cache(made: tuple[Corpus, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is collected: the function that does is gone, and the file is not touched."""
    corpus, cache = made
    (path,) = (p for p in (cache / "corpora").iterdir() if p.is_dir())
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(quickstart, "_collect_quickstart", None)
    monkeypatch.setattr("knowfuse.files.lock_file", None)  # as on a read-only file system
    assert list(quickstart_corpus(**SETTINGS, cache=str(cache)).documents) == list(corpus.documents)
    assert path.stat().st_mtime_ns == before
    assert not list((cache / "corpora").glob("*.part"))


def test_other_settings_are_another_corpus(made: tuple[Corpus, Path]) -> None:
    corpus, cache = made
    other = quickstart_corpus(**{**SETTINGS, "fusion_bytes": 4_000}, cache=str(cache))
    assert len(other.split("fusion")) < len(corpus.split("fusion"))
    assert list(other.split("test")) == list(corpus.split("test")), (
        "sides fill one after the other: test stays what it was"
    )
    assert len([p for p in (cache / "corpora").iterdir() if p.is_dir()]) == 2
