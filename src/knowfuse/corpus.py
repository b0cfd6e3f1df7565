"""Which documents are there, and on which side of the split is each?

A document is cut, once and for all LLMs, into pieces of at most `max_document_bytes`; a piece is what everything
downstream calls a document. The side is decided by a hash of the whole document, so no document is on two sides:
`sources` (what the recipes of the quickstart learn from), `fusion` (what the sources read and the target trains on),
`validation`, `test`.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

Split = Literal["sources", "fusion", "validation", "test"]
TRAINED_ON = ("fusion",)


@dataclass(frozen=True)
class Document:
    """A piece of text; `is_complete` says that its document ends here, so that an EOS follows."""

    text: str
    domain: str
    split: Split
    is_complete: bool = True

    @cached_property
    def id(self) -> str:
        """A content hash, 24 hex digits: equal text is one document wherever it stands."""
        return hashlib.sha256(f"{int(self.is_complete)}{self.text}".encode()).hexdigest()[:24]

    @cached_property
    def num_bytes(self) -> int:
        return len(self.text.encode())


@dataclass(frozen=True)
class Corpus:
    """All documents of a run, and the name that log lines and errors use."""

    name: str
    documents: list[Document]

    def split(self, *splits: Split, domain: str | None = None) -> list[Document]:
        return [d for d in self.documents if d.split in splits and domain in (None, d.domain)]

    @cached_property
    def domains(self) -> list[str]:
        return sorted({d.domain for d in self.documents})

    def fingerprint(self, *splits: Split) -> str:
        """A content hash of the documents of these splits."""
        ids = sorted(f"{d.domain} {d.id}" for d in self.split(*splits))
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()

    def require(self, minimum: dict[Split, int]) -> "Corpus":
        """This corpus, if each split has at least so many documents; ValueError otherwise."""
        for split, wanted in minimum.items():
            got = len(self.split(split))
            if got < wanted:
                raise ValueError(
                    f"corpus {self.name!r} has {got} documents on its {split!r} side, at least {wanted} are needed: "
                    "give it more text, or a larger share for that side"
                )
        return self


def cut(text: str, max_bytes: int) -> list[str]:
    """The text in pieces of at most `max_bytes` bytes; cuts after a newline, else a space, else a character."""
    if max_bytes < 4:
        raise ValueError(f"max_document_bytes must be at least 4, the bytes of one character, got {max_bytes}")
    data, pieces, start = text.encode(), [], 0
    while len(data) - start > max_bytes:
        window = data[start : start + max_bytes]
        at = max(window.rfind(b"\n"), window.rfind(b" ") if b"\n" not in window[max_bytes // 2 :] else -1) + 1
        if at == 0:
            at = max_bytes
            while data[start + at] & 0xC0 == 0x80:  # inside a character
                at -= 1
        pieces.append(window[:at].decode())
        start += at
    return [*pieces, data[start:].decode()] if data else pieces


def side_of(text: str, shares: dict[Split, float]) -> Split:
    """The side of a whole document, by its hash; `shares` sum to 1."""
    point = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
    reached = 0.0
    for split, share in shares.items():
        reached += share
        if point < reached:
            return split
    return next(reversed(shares))


def pieces_of(
    texts: Iterable[str], domain: str, shares: dict[Split, float], max_document_bytes: int, seen: set[str]
) -> Iterator[Document]:
    """Distinct whole documents, split by hash, then cut; a piece in `seen` is left out, the others are added to it."""
    for text in texts:
        pieces = cut(text, max_document_bytes)
        split = side_of(text, shares)
        for n, piece in enumerate(pieces):
            document = Document(piece, domain, split, is_complete=n == len(pieces) - 1)
            if document.id not in seen and piece.strip():
                seen.add(document.id)
                yield document


def text_files(
    files: dict[str, Sequence[str]],
    max_document_bytes: int,
    validation_share: float = 0.05,
    test_share: float = 0.05,
    jsonl_field: str = "text",
    cache: str | None = None,
) -> Corpus:
    """The user's own text: `files` maps a domain to `.txt` files (documents between blank lines) and `.jsonl` files.

    Raises ValueError that names a file which is missing, empty, not UTF-8, or lacks the field.
    """
    shares: dict[Split, float] = {
        "validation": validation_share,
        "test": test_share,
        "fusion": 1.0 - validation_share - test_share,
    }
    documents: list[Document] = []
    seen: set[str] = set()  # over all domains, so that no piece is on two sides
    for domain, paths in files.items():
        texts = dict.fromkeys(text for path in paths for text in _read_file(Path(path), jsonl_field))
        documents += pieces_of(texts, domain, shares, max_document_bytes, seen)
    return Corpus("text_files", documents).require({"fusion": 1, "validation": 1, "test": 1})


def _read_file(path: Path, jsonl_field: str) -> list[str]:
    if not path.is_file():
        raise ValueError(f"corpus file {str(path)!r} does not exist (looked from {os.getcwd()!r}): set corpus.files")
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"corpus file {str(path)!r} is not UTF-8 (byte {error.start}): convert it first") from error
    if path.suffix == ".jsonl":
        texts = [
            _json_text(line, n, path, jsonl_field) for n, line in enumerate(content.split("\n"), 1) if line.strip()
        ]
    else:
        texts = [text.strip("\n") for text in content.split("\n\n")]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError(f"corpus file {str(path)!r} is empty: it has no document with text in it")
    return texts


def _json_text(line: str, number: int, path: Path, field: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"corpus file {str(path)!r}, line {number}, is not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
        raise ValueError(
            f"corpus file {str(path)!r}, line {number}, has no text field {field!r}: set corpus.jsonl_field"
        )
    if any("\ud800" <= c <= "\udfff" for c in record[field]):
        raise ValueError(f"corpus file {str(path)!r}, line {number}, holds half a surrogate pair: remove it")
    return record[field]


def hub_dataset(
    path: str,
    max_document_bytes: int,
    text_field: str = "text",
    train_split: str = "train",
    validation_split: str = "validation",
    test_split: str = "test",
    domain: str = "text",
    revision: str | None = None,
    cache: str | None = None,
) -> Corpus:
    """A text data set of the hub (or a local folder like one), with its own splits; needs `pip install datasets`."""
    if importlib.util.find_spec("datasets") is None:
        raise ValueError(
            f"data set {path!r} is read with the datasets package, which is not installed: pip install datasets"
        )
    import datasets

    documents: list[Document] = []
    whole: set[str] = set()
    seen: set[str] = set()
    sides: dict[Split, str] = {"test": test_split, "validation": validation_split, "fusion": train_split}
    for split, name in sides.items():
        rows = datasets.load_dataset(path, split=name, revision=revision)
        if text_field not in rows.column_names:
            raise ValueError(
                f"data set {path!r} has no field {text_field!r}, it has {rows.column_names}: set corpus.text_field to one"
            )
        texts = [t for t in rows[text_field] if t not in whole]
        whole.update(texts)
        documents += pieces_of(texts, domain, {split: 1.0}, max_document_bytes, seen)
    return Corpus(path, documents).require({"fusion": 1, "validation": 1, "test": 1})
