"""Cuts, sides and files of the corpus."""

import inspect
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowfuse.text import text_files as text_files_module
from knowfuse.text.corpus import Corpus
from knowfuse.text.document import Document, Split, cut, side_of
from knowfuse.text.hub_dataset import hub_dataset
from knowfuse.text.text_files import text_files

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


def test_too_few_documents_on_a_side() -> None:
    corpus = Corpus.of("mine", [Document("a", "code", "fusion")])
    assert corpus.require({"fusion": 1}) is corpus
    with pytest.raises(ValueError, match="corpus 'mine' has 0 documents on its 'test' side, at least 1 are needed"):
        corpus.require({"fusion": 1, "test": 1})


@contextmanager
def unchecked() -> Iterator[None]:
    """What `text_files` calls first, without the tests' type checker."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_require_lists_of_files", "_shares"):
            patch.setattr(text_files_module, name, inspect.unwrap(getattr(text_files_module, name)))
        yield


# ---- text files -------------------------------------------------------------------------------------------------


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
    corpus = text_files({"one": [write(tmp_path / "a.txt", "\n\n".join(texts))]}, 12, 0.3, 0.3)
    of_piece = {d.text: d for d in corpus.documents}
    for text in texts:
        documents = [of_piece[piece] for piece in cut(text, 12)]
        assert len(documents) >= 3
        assert {d.split for d in documents} == {side_of(text, {"validation": 0.3, "test": 0.3, "fusion": 0.4})}
        assert [d.is_complete for d in documents] == [False] * (len(documents) - 1) + [True]


def test_pieces_of_nothing_but_white_space_are_left_out(tmp_path: Path) -> None:
    text = json.dumps({"text": "word" + " " * 40 + "word"})
    texts = [text, *(json.dumps({"text": t}) for t in paragraphs(60))]
    corpus = text_files({"one": [write(tmp_path / "a.jsonl", "\n".join(texts))]}, 12, 0.3, 0.3)
    assert "word" + " " * 8 in {d.text for d in corpus.documents}
    assert all(d.text.strip() for d in corpus.documents)


def test_no_piece_is_on_two_sides_even_across_domains(tmp_path: Path) -> None:
    """Every document of both domains starts with the same line, which becomes a piece of its own."""
    licence = "the same licence text\n"
    files = {
        domain: [write(tmp_path / f"{domain}.txt", "\n\n".join(licence + t for t in paragraphs(40, domain)))]
        for domain in ("one", "two")
    }
    corpus = text_files(files, len(licence), 0.3, 0.3)
    counts = Counter(d.id for d in corpus.documents)
    assert counts.most_common(1)[0][1] == 1
    assert [d.text for d in corpus.documents].count(licence) == 1


def test_jsonl_lines_end_at_newlines_only(tmp_path: Path) -> None:
    """U+2028 and U+0085 may stand unescaped in a JSON string; str.splitlines would cut there."""
    texts = [f"text {n} with \u2028 and \u0085 in it" for n in range(60)]
    lines = "\n".join(json.dumps({"body": t}, ensure_ascii=False) for t in texts)
    corpus = text_files({"one": [write(tmp_path / "a.jsonl", lines)]}, 1000, 0.2, 0.2, jsonl_field="body")
    assert {d.text for d in corpus.documents} == set(texts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"corpus file '.*a\.txt' is empty"),
        ("a.txt", b"\n\n \n\n", r"corpus file '.*a\.txt' is empty"),
        ("a.txt", b"good \xff bad", r"corpus file '.*a\.txt' is not UTF-8 \(byte 5\): convert it first"),
        ("a.json", b"[]", r"corpus file '.*a\.json' ends in '\.json', known are \.txt .* and \.jsonl"),
        ("a.jsonl", b"", r"corpus file '.*a\.jsonl' is empty"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', r"corpus file '.*a\.jsonl', line 2, is not JSON"),
        ("a.jsonl", b'{"body": "x"}', r"line 1, has no text field 'text': set corpus\.jsonl_field"),
        ("a.jsonl", b'{"text": 3}', r"line 1, has no text field 'text'"),
        ("a.jsonl", b'["text"]', r"line 1, has no text field 'text'"),
        ("a.jsonl", b'{"text": "\\ud800"}', r"line 1, holds half a surrogate pair"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_files({"one": [write(tmp_path / name, content)]}, 1000)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"corpus file '.*gone\.txt' does not exist \(looked from '/"):
        text_files({"one": [str(tmp_path / "gone.txt")]}, 1000)


@pytest.mark.parametrize("of_another", [False, True])
def test_a_domain_without_a_document_on_a_side(tmp_path: Path, of_another: bool) -> None:
    """Because it has one document, or because another domain has all of its text."""
    enough = write(tmp_path / "a.txt", "\n\n".join(paragraphs(60)))
    few = enough if of_another else write(tmp_path / "b.txt", "only one document")
    message = (
        rf"domain 'few' has no document on its '(fusion|validation|test)' side, {0 if of_another else 1} in all: give "
        rf"it more text, or (smaller|a larger) corpus\..* {60 if of_another else 0} duplicates were left out"
    )
    with pytest.raises(ValueError, match=message):
        text_files({"enough": [enough], "few": [few]}, 1000, 0.3, 0.3)


def test_duplicates_are_counted_over_files_and_domains(tmp_path: Path) -> None:
    one = write(tmp_path / "a.txt", "\n\n".join(paragraphs(60)))
    two = write(tmp_path / "b.txt", "\n\n".join([*paragraphs(5), *paragraphs(40, "other"), *paragraphs(2, "other")]))
    corpus = text_files({"one": [one, one], "two": [two]}, 1000, 0.3, 0.3)
    assert len(corpus.documents) == 100
    assert corpus.duplicates == 60 + 5 + 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.txt"], r"corpus\.files is \['a\.txt'\]: it must map each domain to a list of files, such as"),
        ("a.txt", r"corpus\.files is 'a\.txt': it must map each domain"),
        ({}, r"corpus\.files is \{\}: it must map each domain"),
        ({"one": "a.txt"}, r"corpus\.files\.one is 'a\.txt': it must be a list of files, such as \[one\.txt\]"),
        ({"one": None}, r"corpus\.files\.one is None: it must be a list of files"),
        ({"one": [3]}, r"corpus\.files\.one is \[3\]: it must be a list of files"),
        ({"mean": ["a.txt"]}, r"a domain 'mean', .*name columns and files: use letters, digits .*not 'mean'"),
        ({"a/b": ["a.txt"]}, r"a domain 'a/b', and domains name columns and files: use letters"),
        ({"..": ["a.txt"]}, r"a domain '\.\.', and domains name"),
        ({"a b": ["a.txt"]}, r"a domain 'a b', and domains name"),
    ],
)
def test_files_that_are_no_mapping_of_lists(files: Any, message: str) -> None:
    """As a user meets them, without the tests' type checker."""
    with pytest.raises(ValueError, match=message), unchecked():
        inspect.unwrap(text_files)(files, 1000)


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        (0.0, 0.1, r"corpus\.validation_share is 0\.0: it must be a number between 0 and 1"),
        (0.1, 1.5, r"corpus\.test_share is 1\.5: it must be a number"),
        (0.1, "x", r"corpus\.test_share is 'x': it must be a number"),
        (0.5, 0.5, r"validation_share 0\.5 and corpus\.test_share 0\.5 leave nothing to train on: their sum must be"),
    ],
)
def test_shares_that_are_none(validation: Any, test: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message), unchecked():
        inspect.unwrap(text_files)({"one": ["a.txt"]}, 1000, validation, test)


def test_a_byte_order_mark_and_a_suffix_in_capitals(tmp_path: Path) -> None:
    texts = paragraphs(60)
    txt = write(tmp_path / "a.TXT", b"\xef\xbb\xbf" + "\n\n".join(texts[:30]).encode())
    lines = "\n".join(json.dumps({"text": t}) for t in texts[30:])
    jsonl = write(tmp_path / "b.JSONL", b"\xef\xbb\xbf" + lines.encode())
    assert {d.text for d in text_files({"one": [txt, jsonl]}, 1000, 0.3, 0.3).documents} == set(texts)


def test_lines_of_spaces_are_blank(tmp_path: Path) -> None:
    """Documents keep the indentation of their first line."""
    texts = [f"    indented {n}\nand not" for n in range(60)]
    content = "  \n\n" + "\n \t\n\n".join(texts) + "\n  "
    corpus = text_files({"one": [write(tmp_path / "a.txt", content)]}, 1000, 0.3, 0.3)
    assert [d.text for d in corpus.documents] == texts


def test_a_directory_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"corpus file '/.*' is a directory: list the files in it"):
        text_files({"one": [str(tmp_path)]}, 1000)


# ---- data sets --------------------------------------------------------------------------------------------------


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in the hub's layout; one training text repeats a test text."""
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    for split, texts in {
        "train": [*paragraphs(5, "train"), "test 0 and some more of it\nin two lines"],
        "validation": paragraphs(3, "validation"),
        "test": paragraphs(2, "test"),
    }.items():
        write(folder / f"{split}.jsonl", "\n".join(json.dumps({"text": t}) for t in texts))
    return str(folder)


def test_a_data_set_keeps_its_own_splits(data_set: str) -> None:
    """A text that is in the test split too is not trained on."""
    corpus = hub_dataset(data_set, 1000, domain="prose")
    assert [d.text for d in corpus.split("fusion")] == paragraphs(5, "train")
    assert [d.text for d in corpus.split("validation")] == paragraphs(3, "validation")
    assert [d.text for d in corpus.split("test")] == paragraphs(2, "test")
    assert corpus.domains == ["prose"]


def test_pieces_of_a_data_set_are_on_one_side(data_set: str) -> None:
    """At 15 bytes the second lines are equal pieces in every split."""
    ids = Counter(d.id for d in hub_dataset(data_set, 15).documents)
    assert ids.most_common(1)[0][1] == 1


def test_a_field_or_split_that_a_data_set_lacks(data_set: str) -> None:
    with pytest.raises(ValueError, match=r"has no field 'body', it has \['text'\]: set corpus\.text_field"):
        hub_dataset(data_set, 1000, text_field="body")
    with pytest.raises(ValueError, match='Unknown split "dev"'):
        hub_dataset(data_set, 1000, validation_split="dev")
