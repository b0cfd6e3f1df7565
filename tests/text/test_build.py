"""A corpus is built once and opened: what is in it, what a kill leaves, and damage by name."""

import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from knowfuse.ids import hex_names
from knowfuse.text.corpus import Corpus, Texts, build_corpus
from knowfuse.text.document import Document, RawDocument, Split, cut, side_of
from knowfuse.text.documents import Documents
from knowfuse.text.table import BATCH

SHARES: dict[Split, float] = {"validation": 0.2, "test": 0.2, "fusion": 0.6}
WORDS = [f"text {n} \u20ac\n" + "more of it " * (n % 7) for n in range(300)]


class Listed(Texts):
    """These texts, in two domains; every fifth says its side. Stops before the text at `stop`."""

    def __init__(self, texts: list[str] = WORDS, stop: int | None = None) -> None:
        super().__init__()
        self.texts, self.stop, self.walks = texts, stop, 0

    @property
    def key(self) -> str:
        return "these"

    def __iter__(self) -> Iterator[RawDocument]:
        self.walks += 1
        for n, text in enumerate(self.texts):
            if n == self.stop:
                raise KeyboardInterrupt
            yield RawDocument(text, "even" if n % 2 == 0 else "odd", "sources" if n % 5 == 0 else None)
        self.skipped["no text"] = 2


def build(cache: Path | None, texts: Texts | None = None) -> Corpus:
    return build_corpus("mine", texts or Listed(), SHARES, 40, cache)


def folder_of(cache: Path) -> Path:
    (folder,) = (path for path in (cache / "corpora").iterdir() if path.is_dir())
    return folder


def slow() -> list[Document]:
    """The same by the words of the promise: each piece once, in order, on the side of its text."""
    found: dict[str, Document] = {}
    for n, text in enumerate(WORDS):
        split = "sources" if n % 5 == 0 else side_of(text, SHARES)
        pieces = cut(text, 40)
        for at, piece in enumerate(pieces, 1):
            document = Document(piece, "even" if n % 2 == 0 else "odd", split, is_complete=at == len(pieces))
            if piece.strip():
                found.setdefault(document.id, document)
    return list(found.values())


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_corpus_is_its_texts_cut_and_split(tmp_path: Path, is_kept: bool) -> None:
    corpus, want = build(tmp_path if is_kept else None), slow()
    assert list(corpus.documents) == want
    assert corpus.documents.names == [d.id for d in want]
    assert corpus.documents.num_bytes.tolist() == [d.num_bytes for d in want]
    assert corpus.duplicates == sum(len(cut(text, 40)) for text in WORDS) - len(want) > 0
    assert corpus.skipped == {"no text": 2}
    assert corpus.domains == ["even", "odd"]
    for split in ("sources", "fusion", "validation", "test"):
        for domain in (None, "even", "odd"):
            chosen = [d for d in want if d.split == split and domain in (None, d.domain)]
            assert list(corpus.split(split, domain=domain)) == chosen
            assert corpus.count(split, domain) == len(chosen)


def test_texts_are_walked_through_once(tmp_path: Path) -> None:
    texts = Listed()
    first, again = build(tmp_path, texts), build(tmp_path, texts)
    assert texts.walks == 1
    assert list(again.documents) == list(first.documents)
    assert (again.duplicates, again.skipped) == (first.duplicates, first.skipped)


def test_more_documents_than_a_batch_of_texts_has(tmp_path: Path) -> None:
    corpus = build(tmp_path, Listed([f"text {n}" for n in range(2 * BATCH + 3)]))
    assert [d.text for d in corpus.documents][BATCH - 1 : BATCH + 2] == [f"text {BATCH + n}" for n in (-1, 0, 1)]
    assert corpus.documents[-1].text == f"text {2 * BATCH + 2}"


def test_views_of_a_corpus(tmp_path: Path) -> None:
    """Slices and masks are views; a side's key is that of its documents, wherever they are from."""
    side = build(tmp_path).split("fusion")
    listed = list(side)
    assert list(side[3:9:2]) == listed[3:9:2]
    assert list(side.take(side.num_bytes > 30)) == [d for d in listed if d.num_bytes > 30]
    assert hex_names(side.ids) == [d.id for d in listed]
    assert side.key == Documents.of(listed).key == side[:].key != Documents.of(listed[::-1]).key
    assert Documents.of(side) is side


def test_a_view_goes_to_another_process_as_its_path(tmp_path: Path) -> None:
    """Whatever was looked at before: 300 documents or a million are the same few bytes."""
    side = build(tmp_path).split("fusion")
    assert np.array_equal(side.rows, side.rows)
    sent = pickle.dumps(side)
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == list(side)
    in_memory = build(None).split("fusion")
    assert list(pickle.loads(pickle.dumps(in_memory))) == list(side)


def test_a_build_that_is_stopped_leaves_nothing_and_the_next_goes_on(tmp_path: Path) -> None:
    """Stopped in the middle, or killed: what it had written lies there until the next process builds, which removes it."""
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Listed(stop=200))
    assert [path for path in (tmp_path / "corpora").iterdir() if path.suffix != ".lock"] == []
    name = next((tmp_path / "corpora").iterdir()).name.removesuffix(".lock")
    killed = tmp_path / "corpora" / f"{name}.12345.part"
    killed.mkdir()
    (killed / "texts.arrow").write_bytes(b"half a fi")
    assert list(build(tmp_path).documents) == slow()
    assert not killed.exists()


@pytest.mark.parametrize(
    ("file", "kept", "message"),
    [
        ("texts.arrow", 0, r"texts\.arrow' is cut off or damaged \(EOFError: .*\): remove it and run the same"),
        ("texts.arrow", 3000, r"texts\.arrow' is cut off or damaged \(EOFError: .*\): remove it and run the same"),
        (
            "documents.arrow",
            3000,
            r"documents\.arrow' is cut off or damaged \(EOFError: .*\): remove it and run the same",
        ),
        ("about.json", 50, r"about\.json' is cut off or damaged \(JSONDecodeError: .*\): remove it and run the same"),
        ("about.json", 0, r"about\.json' is cut off or damaged \(JSONDecodeError: .*\): remove it and run the same"),
    ],
)
def test_a_file_cut_off_is_named(tmp_path: Path, file: str, kept: int, message: str) -> None:
    build(tmp_path)
    path = folder_of(tmp_path) / file
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"'/.*/corpora/[0-9a-f]{{24}}/{message}"):
        build(tmp_path)


def test_a_text_that_is_not_what_was_written_is_named(tmp_path: Path) -> None:
    """One letter of one document: the others are read, and that one is refused by its id."""
    corpus = build(tmp_path)
    broken = next(d for d in corpus.documents if d.text.startswith("text 77 "))
    path = folder_of(tmp_path) / "texts.arrow"
    path.write_bytes(path.read_bytes().replace(b"text 77 ", b"text 7X "))
    texts = {d.id: d for d in slow()}
    table = build(tmp_path).table
    opened = Documents(table, np.arange(len(table)))  # the type checker reads one of `Corpus.documents` itself
    message = (
        rf"^document {broken.id} in '/.*/corpora/[0-9a-f]{{24}}' is not what was written: remove that folder and run the same "
        "command again, which makes it anew$"
    )
    with pytest.raises(ValueError, match=message):
        list(opened)
    place = corpus.documents.names.index(broken.id)
    assert opened[place + 1] == texts[opened.names[place + 1]]


@contextmanager
def as_another_user() -> Iterator[None]:
    """Root may read everything: as the user `nobody` where the tests run as root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_cache_that_this_user_may_not_read_is_named(tmp_path: Path) -> None:
    build(tmp_path)
    corpora = tmp_path / "corpora"
    corpora.chmod(0)
    try:
        with as_another_user(), pytest.raises(PermissionError) as error:
            build(tmp_path)
    finally:
        corpora.chmod(0o755)
    assert re.fullmatch(
        r"'/.*' may not be read or written by this user \(Permission denied\): ask its owner for `chmod -R a\+rX` on the cache "
        r"folder, or set cache= \(or KNOWFUSE_CACHE\) to a folder of your own",
        str(error.value),
    )
