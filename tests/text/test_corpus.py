"""Cuts and sides of the corpus, and what of its texts is in it."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowfuse.text.corpus import Corpus
from knowfuse.text.document import Document, Split, cut, side_of
from knowfuse.text.mixture import text_files

SHARES: dict[Split, float] = {"validation": 0.2, "test": 0.3, "fusion": 0.5}
# Characters of one to four bytes, and the places where a cut likes to be.
TEXTS = st.text(st.sampled_from("ab \n\t\u00e9\u20ac\U0001f600\u2028\r"), max_size=200) | st.text(max_size=80)


@given(TEXTS, st.integers(4, 40))
def test_pieces_concatenate_to_the_text_and_none_is_too_long(text: str, max_bytes: int) -> None:
    pieces = cut(text, max_bytes)
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= max_bytes for piece in pieces)


def test_cuts_prefer_a_newline_then_a_space_then_a_character() -> None:
    assert cut("one two\nthree four", 10) == ["one two\n", "three four"]
    assert cut("one two three four", 10) == ["one two ", "three four"]
    assert cut("x\n aaa bbb ccc", 10) == ["x\n aaa ", "bbb ccc"]  # the newline would leave a short piece
    assert cut("\u20ac" * 4, 10) == ["\u20ac" * 3, "\u20ac"]  # three bytes each
    assert cut("", 10) == []


def test_pieces_shorter_than_a_character_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_document_bytes must be at least 4.*got 3"):
        cut("\U0001f600\U0001f600", 3)


@given(st.text(max_size=30))
def test_a_side_depends_on_the_text_alone(text: str) -> None:
    assert side_of(text, SHARES) == side_of(text, dict(SHARES))
    assert side_of(text, {"test": 1.0}) == "test"


def test_sides_have_their_shares() -> None:
    """10 000 texts; four standard deviations of a binomial share are at most 0.02."""
    counts = Counter(side_of(f"document {n}", SHARES) for n in range(10_000))
    for split, share in SHARES.items():
        assert counts[split] / 10_000 == pytest.approx(share, abs=0.02)


def test_ids_are_of_the_content() -> None:
    document = Document("text", "code", "fusion")
    assert document.id == Document("text", "docs", "test").id
    assert len(document.id) == 24
    assert len({document.id, Document("Text", "code", "fusion").id, Document("text", "code", "fusion", False).id}) == 3
    assert Document("h\u00e9", "code", "fusion").num_bytes == 3


def test_split_and_domains() -> None:
    a, b = Document("a", "code", "fusion"), Document("b", "docs", "test")
    corpus = Corpus.of("mine", [a, b])
    assert corpus.domains == ["code", "docs"]
    assert list(corpus.split("fusion", "test")) == list(corpus.documents) == [a, b]
    assert list(corpus.split("fusion", "test", domain="docs")) == [b]
    assert not corpus.split("fusion", domain="none")
    assert corpus.count("test") == corpus.count("test", "docs") == 1
    assert corpus.count("test", "code") == corpus.count("validation") == 0


def test_a_share_of_the_fusion_side() -> None:
    """Evenly spread, of every domain alike, halves of halves; the other sides stay whole."""
    documents = [Document(f"{n}", "code" if n < 60 else "docs", "fusion") for n in range(100)]
    held_out = [Document(f"{side} {n}", "code", side) for n in range(5) for side in ("validation", "test")]
    corpus = Corpus.of("mine", [*documents, *held_out])
    half, quarter = (corpus.with_share(share) for share in (0.5, 0.25))
    assert list(half.split("fusion")) == documents[1::2]
    assert list(quarter.split("fusion")) == documents[3::4]
    assert len(corpus.with_share(0.3).split("fusion", domain="docs")) == 12
    assert half.count("fusion") == 50
    assert half.count("fusion", "docs") == len(half.split("fusion", domain="docs")) == 20
    assert list(half.documents) == [*documents[1::2], *held_out]
    assert list(half.split("validation")) == list(corpus.split("validation"))
    assert half.split("fusion").key != corpus.split("fusion").key
    assert corpus.with_share(1.0).split("fusion").key == corpus.split("fusion").key


@pytest.mark.parametrize("share", [0.0, -0.5, 1.1, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"fusion_share is {share}: it is a share, above 0 and at most 1, such as"):
        Corpus.of("mine", []).with_share(share)


def test_too_few_documents_on_a_side() -> None:
    corpus = Corpus.of("mine", [Document("a", "code", "fusion")])
    assert corpus.require({"fusion": 1}) is corpus
    with pytest.raises(ValueError, match="corpus 'mine' has 0 documents on its 'test' side, at least 1 are needed"):
        corpus.require({"fusion": 1, "test": 1})


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def paragraphs(count: int, word: str = "word") -> list[str]:
    return [f"{word} {n} and some more of it\nin two lines" for n in range(count)]


def test_text_files_hold_every_document_once_each_on_one_side(tmp_path: Path) -> None:
    texts = paragraphs(200)
    txt = write(tmp_path / "a.txt", "\n\n".join(texts))
    jsonl = write(tmp_path / "b.jsonl", "\n".join(json.dumps({"text": t}) for t in [*texts, *paragraphs(50, "other")]))
    corpus = text_files({"one": [txt, jsonl]}, 1000, validation_share=0.2, test_share=0.2)
    assert sorted(d.text for d in corpus.documents) == sorted([*texts, *paragraphs(50, "other")])
    assert {d.split for d in corpus.documents} == {"fusion", "validation", "test"}
    assert all(d.split == side_of(d.text, {"validation": 0.2, "test": 0.2, "fusion": 0.6}) for d in corpus.documents)
    assert all(d.is_complete and d.domain == "one" for d in corpus.documents)


def test_all_pieces_of_a_document_are_on_its_side_and_only_the_last_completes_it(tmp_path: Path) -> None:
    texts = [f"{n}-one {n}-two {n}-three {n}-four" for n in range(100)]
    corpus = text_files(
        {"one": [write(tmp_path / "a.txt", "\n\n".join(texts))]}, 12, validation_share=0.3, test_share=0.3
    )
    of_piece = {d.text: d for d in corpus.documents}
    for text in texts:
        documents = [of_piece[piece] for piece in cut(text, 12)]
        assert len(documents) >= 3
        assert {d.split for d in documents} == {side_of(text, {"validation": 0.3, "test": 0.3, "fusion": 0.4})}
        assert [d.is_complete for d in documents] == [False] * (len(documents) - 1) + [True]


def test_pieces_of_nothing_but_white_space_are_left_out(tmp_path: Path) -> None:
    text = json.dumps({"text": "word" + " " * 40 + "word"})
    texts = [text, *(json.dumps({"text": t}) for t in paragraphs(60))]
    corpus = text_files(
        {"one": [write(tmp_path / "a.jsonl", "\n".join(texts))]}, 12, validation_share=0.3, test_share=0.3
    )
    assert "word" + " " * 8 in {d.text for d in corpus.documents}
    assert all(d.text.strip() for d in corpus.documents)


def test_no_piece_is_on_two_sides_even_across_domains(tmp_path: Path) -> None:
    """Every document of both domains starts with the same line, which becomes a piece of its own."""
    licence = "the same licence text\n"
    files = {
        domain: [write(tmp_path / f"{domain}.txt", "\n\n".join(licence + t for t in paragraphs(40, domain)))]
        for domain in ("one", "two")
    }
    corpus = text_files(files, len(licence), validation_share=0.3, test_share=0.3)
    counts = Counter(d.id for d in corpus.documents)
    assert counts.most_common(1)[0][1] == 1
    assert [d.text for d in corpus.documents].count(licence) == 1


@pytest.mark.parametrize("of_another", [False, True])
def test_a_domain_without_a_document_on_a_side(tmp_path: Path, of_another: bool) -> None:
    """Because it has one document, or because another domain has all of its text."""
    enough = write(tmp_path / "a.txt", "\n\n".join(paragraphs(60)))
    few = enough if of_another else write(tmp_path / "b.txt", "only one document")
    message = (
        rf"domain 'few' has no document on its '(fusion|validation|test)' side, {0 if of_another else 1} in all: give "
        rf"it more text, or (smaller|a larger) corpus\..*{' 60 duplicates were left out' if of_another else '_share$'}"
    )
    with pytest.raises(ValueError, match=message):
        text_files({"enough": [enough], "few": [few]}, 1000, validation_share=0.3, test_share=0.3)


def test_duplicates_are_counted_over_files_and_domains(tmp_path: Path) -> None:
    one = write(tmp_path / "a.txt", "\n\n".join(paragraphs(60)))
    two = write(tmp_path / "b.txt", "\n\n".join([*paragraphs(5), *paragraphs(40, "other"), *paragraphs(2, "other")]))
    corpus = text_files({"one": [one, one], "two": [two]}, 1000, validation_share=0.3, test_share=0.3)
    assert len(corpus.documents) == 100
    assert corpus.duplicates == 60 + 5 + 2


def test_a_side_that_does_not_exist_is_refused() -> None:
    corpus = Corpus.of("two", [Document("one", "docs", "fusion"), Document("two", "docs", "test")])
    sides = r"\['sources', 'fusion', 'validation', 'test'\]"
    with pytest.raises(ValueError, match=rf"split is 'tset': choose one of {sides}"):
        Corpus.split.__wrapped__(corpus, "tset")  # type: ignore[attr-defined]
