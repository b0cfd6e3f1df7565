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
import re
from collections import Counter
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
    duplicates: int = 0  # pieces left out, because equal ones are among the documents

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
    texts: Iterable[str], domain: str, shares: dict[Split, float], max_document_bytes: int, seen: Counter[str]
) -> Iterator[Document]:
    """Whole documents, split by hash, then cut; all pieces are counted in `seen`, and one seen before is left out."""
    for text in texts:
        pieces = cut(text, max_document_bytes)
        split = side_of(text, shares)
        for n, piece in enumerate(pieces):
            document = Document(piece, domain, split, is_complete=n == len(pieces) - 1)
            if piece.strip():
                seen[document.id] += 1
                if seen[document.id] == 1:
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

    Raises ValueError that names what is wrong: a setting, a domain's name, a file that is missing, empty, not UTF-8 or
    lacks the field, or a domain without a document on one of the sides.
    """
    _require_lists_of_files(files)
    shares = _shares(validation_share, test_share)
    documents: list[Document] = []
    seen: Counter[str] = Counter()  # over all domains, so that no piece is on two sides
    for domain, paths in files.items():
        texts = (text for path in paths for text in _read_file(Path(path), jsonl_field))
        documents += pieces_of(texts, domain, shares, max_document_bytes, seen)
    corpus = Corpus("text_files", documents, seen.total() - len(seen))
    for domain in files:
        _require_every_side(corpus, domain)
    return corpus


def _require_lists_of_files(files: dict[str, Sequence[str]]) -> None:
    if not isinstance(files, dict) or not files:
        raise ValueError(
            f"corpus.files is {files!r}: it must map each domain to a list of files, such as "
            "'corpus.files={wiki: [wiki.txt], math: [gsm8k.jsonl]}'"
        )
    for domain, paths in files.items():
        if domain == "mean" or not re.fullmatch(r"\w[\w.-]*", str(domain)):
            raise ValueError(
                f"corpus.files has a domain {domain!r}, and domains name columns and files: use letters, digits and "
                "_ . - after the first of them, and not 'mean', which is the column of their mean"
            )
        if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
            raise ValueError(f"corpus.files.{domain} is {paths!r}: it must be a list of files, such as [{domain}.txt]")


def _shares(validation: float, test: float) -> dict[Split, float]:
    for name, share in (("validation_share", validation), ("test_share", test)):
        if not isinstance(share, int | float) or not 0 < share < 1:
            raise ValueError(f"corpus.{name} is {share!r}: it must be a number between 0 and 1, such as 0.05")
    if validation + test >= 1:
        raise ValueError(
            f"corpus.validation_share {validation} and corpus.test_share {test} leave nothing to train on: their sum "
            "must be less than 1"
        )
    return {"validation": validation, "test": test, "fusion": 1.0 - validation - test}


def _require_every_side(corpus: Corpus, domain: str) -> None:
    sides: tuple[Split, ...] = ("fusion", "validation", "test")
    counts = {split: len(corpus.split(split, domain=domain)) for split in sides}
    for split, count in counts.items():
        if not count:
            share = (
                "smaller corpus.validation_share and test_share"
                if split == "fusion"
                else f"a larger corpus.{split}_share"
            )
            raise ValueError(
                f"domain {domain!r} has no document on its {split!r} side, {sum(counts.values())} in all: give it more "
                f"text, or {share}. {corpus.duplicates} duplicates were left out of corpus {corpus.name!r}; where the "
                "text of a domain is all in another, remove one of the two"
            )


def _read_file(path: Path, jsonl_field: str) -> list[str]:
    if path.is_dir():
        raise ValueError(f"corpus file {str(path)!r} is a directory: list the files in it that are to be read")
    if not path.is_file():
        raise ValueError(f"corpus file {str(path)!r} does not exist (looked from {os.getcwd()!r}): set corpus.files")
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".jsonl"):
        raise ValueError(
            f"corpus file {str(path)!r} ends in {path.suffix!r}, known are .txt (documents between blank lines) and "
            ".jsonl (a JSON object a line): convert or rename it"
        )
    try:
        content = path.read_text(encoding="utf-8-sig")  # editors of Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"corpus file {str(path)!r} is not UTF-8 (byte {error.start}): convert it first") from error
    if suffix == ".jsonl":
        texts = [
            _json_text(line, n, path, jsonl_field) for n, line in enumerate(content.split("\n"), 1) if line.strip()
        ]
    else:
        texts = [text.strip("\n") for text in re.split(r"\n(?:[ \t]*\n)+", f"\n{content}\n")]
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
    seen: Counter[str] = Counter()
    sides: dict[Split, str] = {"test": test_split, "validation": validation_split, "fusion": train_split}
    for split, name in sides.items():
        rows = datasets.load_dataset(path, split=name, revision=revision)
        if text_field not in rows.column_names:
            raise ValueError(
                f"data set {path!r} has no field {text_field!r}, it has {rows.column_names}: set corpus.text_field to one"
            )
        documents += pieces_of(rows[text_field], domain, {split: 1.0}, max_document_bytes, seen)
    return Corpus(path, documents, seen.total() - len(seen)).require({"fusion": 1, "validation": 1, "test": 1})
