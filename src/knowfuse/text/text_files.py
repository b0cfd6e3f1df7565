"""Which texts are in the user's own files? Those of one domain, named one by one or by patterns."""

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowfuse.files import sha256_of
from knowfuse.text.document import RawDocument
from knowfuse.text.findings import Findings
from knowfuse.text.formats import FORMATS, texts_in
from knowfuse.text.patterns import files_of, is_pattern
from knowfuse.text.quoting import override
from knowfuse.text.rows import Rows, TextRows
from knowfuse.text.settings import fields_of, require_domain
from knowfuse.text.unpacked import suffix_of
from knowfuse.text.weights import drawn

EXAMPLE = {"wiki": ["wiki.txt"], "math": ["my notes, 2026.jsonl"], "code": ["src/**/*.py"]}


@dataclass(frozen=True)
class TextFiles:
    """The files of one domain, in the order in which they are read, each with whether the user wrote its name."""

    domain: str
    files: list[tuple[Path, bool]]
    rows: Rows  # what is made of .jsonl and .parquet

    @property
    def is_limited(self) -> bool:
        return False

    def state(self, memo: Path | None) -> Any:
        """What decides the texts: the files' content, not their names."""
        files = [(suffix_of(path), is_named, sha256_of(path, memo)) for path, is_named in self.files]
        return [self.domain, self.rows.state, files]

    def held_out(self, findings: Findings) -> Iterator[RawDocument]:
        """None: the side of every text of a file is decided by its hash."""
        yield from ()

    def training(self, findings: Findings, seed: str | None) -> Iterator[RawDocument]:
        """All texts; with a seed the files are in an order by chance, and the texts within each neighbourhood."""
        files = list(self.files)
        if seed is not None:
            random.Random(seed).shuffle(files)
        texts = (text for path, named in files for text in texts_in(path, self.rows, named, findings))
        for text in texts if seed is None else drawn(texts, seed):
            yield RawDocument.of(text, self.domain)


def domains_of_files(files: Any, text_field: Any) -> list[TextFiles]:
    """`files_by_domain` of texts, of a field or fields, or of either by domain."""

    def rows_of(domain: str) -> Rows:
        field = text_field.get(domain, "text") if isinstance(text_field, Mapping) else text_field
        return TextRows(fields_of(field, "corpus.text_field"), "corpus.text_field")

    return files_by_domain(files, rows_of)


def files_by_domain(files: Any, rows_of: Callable[[str], Rows]) -> list[TextFiles]:
    """`corpus.files`, checked: the files that each domain's names and patterns mean, and what is made of a domain's rows.

    ValueError that tells all that is wrong with them at once: no mapping of lists, a domain's name, a file that is
    missing, a directory or of an unknown kind, a pattern that fits nothing.
    """
    _require_lists(files)
    findings = Findings()
    domains = []
    for domain, names in files.items():
        found = [file for name in names for file in _found(name, domain, files, findings)]
        domains.append(TextFiles(domain, found, rows_of(domain)))
    findings.require_no_faults()
    return domains


def _require_lists(files: Any) -> None:
    if not isinstance(files, Mapping) or not files:
        meant = {"mine": [files]} if isinstance(files, str) else {"mine": files} if _are_names(files) else EXAMPLE
        raise ValueError(
            f"corpus.files is {files!r}: it must map each domain to a list of files, such as {override('corpus.files', meant)}"
        )
    for domain, names in files.items():
        require_domain(domain, "corpus.files")
        if not _are_names(names):
            meant = {domain: [names if isinstance(names, str) else f"{domain}.txt"]}
            example = override("corpus.files", meant) or meant
            raise ValueError(f"corpus.files.{domain} is {names!r}: it must be a list of files, such as {example}")


def _are_names(names: Any) -> bool:
    return isinstance(names, list | tuple) and bool(names) and all(isinstance(name, str) and name for name in names)


def _found(name: str, domain: str, files: Mapping[str, Sequence[str]], findings: Findings) -> list[tuple[Path, bool]]:
    """The files that one entry means; a name that is there is no pattern, whatever letters it has."""
    place, path = f"corpus file {name!r}", Path(name).expanduser()
    if path.is_dir():
        example = str(Path(name) / "**" / "*.txt")
        findings.fault(place, "is a directory", f"list the files in it, or a pattern such as {example!r}")
    elif path.is_file():
        if suffix_of(path) in FORMATS:
            return [(path, True)]
        known = ", ".join(FORMATS)
        remedy = "convert or rename it; a pattern, such as 'src/**/*.py', reads each file that it fits as one text"
        findings.fault(place, f"ends in {path.suffix!r}, known are {known}, each also with .gz or .zst", remedy)
    elif is_pattern(name):
        if found := files_of(name):
            return [(file, False) for file in found]
        findings.fault(
            place, f"is a pattern that fits no file (looked from {os.getcwd()!r})", _remedy(name, domain, files)
        )
    else:
        findings.fault(place, f"does not exist (looked from {os.getcwd()!r})", _remedy(name, domain, files))
    return []


def _remedy(name: str, domain: str, files: Mapping[str, Sequence[str]]) -> str:
    """What to set instead: where Hydra has cut a name at its comma, the name in quotes."""
    names = list(files[domain])
    whole = _rejoined(name, names)
    meant = {**files, domain: whole} if whole else EXAMPLE
    said = "set corpus.files; names with spaces, commas, brackets or letters outside ASCII are in double quotes"
    line = override("corpus.files", meant)
    return f"{said}, such as {line}" if line else f"{said}, or write them in a file of conf/data"


def _rejoined(name: str, names: list[str]) -> list[str] | None:
    """The list with the pieces around `name` that are one file put together again."""
    at = names.index(name)
    for first in range(at + 1):
        for end in range(max(at, first + 1) + 1, len(names) + 1):
            for comma in (", ", ","):
                whole = comma.join(names[first:end])
                if Path(whole).expanduser().is_file():
                    return [*names[:first], whole, *names[end:]]
    return None
