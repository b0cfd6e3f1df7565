"""Which texts are in the user's own files? `.txt` with documents between blank lines, `.jsonl` with an object a line."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from knowfuse.text.corpus import Corpus, Texts, build_corpus, require_sides
from knowfuse.text.document import RawDocument, Split


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
    texts = _Files({domain: [Path(path) for path in paths] for domain, paths in files.items()}, jsonl_field)
    corpus = build_corpus("text_files", texts, shares, max_document_bytes, Path(cache) if cache else None)
    for domain in files:
        require_sides(corpus, domain)
    return corpus


class _Files(Texts):
    """The texts of all files, domain by domain; which they are is told by each file's place, size and time of change."""

    def __init__(self, files: dict[str, list[Path]], jsonl_field: str) -> None:
        super().__init__()
        self.files, self.jsonl_field = files, jsonl_field

    @property
    def key(self) -> str:
        state = [
            (domain, [(str(path.resolve()), (s := path.stat()).st_size, s.st_mtime_ns) for path in paths])
            for domain, paths in self.files.items()
            if all(_require_file(path) for path in paths)
        ]
        return hashlib.sha256(json.dumps([state, self.jsonl_field]).encode()).hexdigest()

    def __iter__(self) -> Iterator[RawDocument]:
        for domain, paths in self.files.items():
            for path in paths:
                yield from (RawDocument(text, domain) for text in _read_file(path, self.jsonl_field))


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


def _require_file(path: Path) -> bool:
    if path.is_dir():
        raise ValueError(f"corpus file {str(path)!r} is a directory: list the files in it that are to be read")
    if not path.is_file():
        raise ValueError(f"corpus file {str(path)!r} does not exist (looked from {os.getcwd()!r}): set corpus.files")
    return True


def _read_file(path: Path, jsonl_field: str) -> list[str]:
    _require_file(path)
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
