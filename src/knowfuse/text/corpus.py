"""Which documents are there, on which side of the split? A corpus is built once, kept in the cache, and opened by every process.

It is a folder: the columns of `table`, and `about.json`, which says how many documents each side has of each domain, so
that nothing has to be counted when it is opened.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from knowfuse.files import make_folder_once, undamaged
from knowfuse.text.document import SPLITS, Document, Learn, RawDocument, Split, coded, cut_bytes, id_of, side_of_bytes
from knowfuse.text.documents import Documents
from knowfuse.text.table import Table, TableWriter, open_table, table_from, writing_table

ABOUT = "about.json"
FORMAT_VERSION = 1  # of the folder


class Texts(ABC):
    """What a reader found: whole texts, read when they are walked through.

    `skipped` counts the texts that were left out while they were, by reason.
    """

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()

    @property
    @abstractmethod
    def key(self) -> str:
        """A hash of everything that decides which texts these are."""

    @abstractmethod
    def __iter__(self) -> Iterator[RawDocument]: ...


@dataclass
class About:
    """What is known of a corpus without looking at its documents."""

    duplicates: int = 0  # pieces left out, because equal ones are among the documents
    skipped: dict[str, int] = field(default_factory=dict)  # texts that the reader left out, by reason
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> domain -> documents
    keys: dict[str, str] = field(default_factory=dict)  # split -> content hash of its documents in order


@dataclass(frozen=True)
class Corpus:
    """All documents of a run, and the name that log lines and errors use."""

    name: str
    table: Table
    about: About
    fusion_share: float = 1.0  # of the documents of its fusion side, evenly spread; the others are as if not there
    learn: Learn = "assistant"  # of each, where they are conversations

    @staticmethod
    def of(name: str, documents: Iterable[Document], duplicates: int = 0) -> "Corpus":
        """The corpus of these documents, in memory."""
        listed = Documents.of(list(documents))
        return Corpus(name, listed.table, about_table(listed.table, duplicates), learn=listed.learn)

    @property
    def documents(self) -> Documents:
        """All of them, whatever their side."""
        return self._of(SPLITS)

    def with_share(self, share: float) -> "Corpus":
        """With only this share of the documents of its fusion side, every second of them for 0.5; ValueError outside (0, 1]."""
        if not 0.0 < share <= 1.0:
            raise ValueError(f"fusion_share is {share}: it is a share, above 0 and at most 1, such as fusion_share=0.5")
        return replace(self, fusion_share=share)

    @property
    def duplicates(self) -> int:
        """Pieces left out, because equal ones are among the documents."""
        return self.about.duplicates

    @property
    def skipped(self) -> dict[str, int]:
        """Texts that the reader left out, by reason."""
        return self.about.skipped

    @property
    def is_chat(self) -> bool:
        """Whether its documents are conversations."""
        return self.table.messages is not None

    @property
    def domains(self) -> list[str]:
        return sorted({domain for counts in self.about.counts.values() for domain in counts})

    def split(self, *splits: Split, domain: str | None = None) -> Documents:
        """The documents of these sides, in the order of the corpus; ValueError for a side that does not exist."""
        if unknown := [split for split in splits if split not in SPLITS]:
            raise ValueError(f"split is {unknown[0]!r}: choose one of {list(SPLITS)}")
        return self._of(splits, domain)

    def _of(self, splits: tuple[Split, ...], domain: str | None = None) -> Documents:
        if "fusion" not in splits or self.fusion_share == 1.0:
            is_side = len(splits) == 1 and domain is None
            key = self.about.keys[splits[0]] if is_side else None
            return Documents(self.table, (splits, domain), key, self.learn)
        documents = Documents(self.table, (splits, domain), learn=self.learn)
        side = Documents(self.table, (("fusion",), None)).rows
        reached = np.floor(np.arange(len(side) + 1) * self.fusion_share)
        left_out = side[reached[1:] == reached[:-1]]
        return documents.take(~np.isin(documents.rows, left_out))

    def count(self, split: Split, domain: str | None = None) -> int:
        """How many documents a side has, of one domain or of all."""
        if split == "fusion" and self.fusion_share < 1.0:
            return len(self.split(split, domain=domain))
        counts = self.about.counts[split]
        return sum(counts.values()) if domain is None else counts.get(domain, 0)

    def require(self, minimum: dict[Split, int]) -> "Corpus":
        """This corpus, if each split has at least so many documents; ValueError otherwise."""
        for split, wanted in minimum.items():
            if (got := self.count(split)) < wanted:
                raise ValueError(
                    f"corpus {self.name!r} has {got} documents on its {split!r} side, at least {wanted} are needed: "
                    "give it more text, or a larger share for that side"
                )
        return self


def build_corpus(
    name: str, texts: Texts, shares: Mapping[Split, float], max_document_bytes: int, cache: Path | None
) -> Corpus:
    """The documents of these texts, each once, on the side that its text names or that its hash falls to by the shares.

    Made by one process where `cache` has it not, and opened by all; None: made in memory, each time. A process that is
    killed while it makes one leaves nothing that the next takes for whole.
    Raises ValueError where what the cache has is damaged, PermissionError where this user may not read it.
    """
    if cache is None:
        batches: list[pa.RecordBatch] = []
        writer = TableWriter(batches.append)
        duplicates = _fill(writer, texts, shares, max_document_bytes)
        table = table_from(batches, writer.columns())
        return Corpus(name, table, about_table(table, duplicates, texts.skipped))
    state = json.dumps([FORMAT_VERSION, texts.key, dict(shares), max_document_bytes])
    folder = cache / "corpora" / hashlib.sha256(state.encode()).hexdigest()[:24]
    make_folder_once(folder, lambda unfinished: _write(unfinished, texts, shares, max_document_bytes))
    table = open_table(folder)
    with undamaged(folder / ABOUT):
        return Corpus(name, table, About(**json.loads((folder / ABOUT).read_text(encoding="utf-8"))))


def _write(folder: Path, texts: Texts, shares: Mapping[Split, float], max_document_bytes: int) -> None:
    with writing_table(folder) as writer:
        duplicates = _fill(writer, texts, shares, max_document_bytes)
    about = about_table(open_table(folder), duplicates, texts.skipped)
    (folder / ABOUT).write_text(json.dumps(asdict(about), indent=1), encoding="utf-8")


def _fill(writer: TableWriter, texts: Texts, shares: Mapping[Split, float], max_document_bytes: int) -> int:
    """Cut the texts and add every piece that has more than white space and was not seen before; how many were.

    Conversations stay whole.
    """
    seen: set[bytes] = set()  # over all domains, so that no piece is on two sides; 90 bytes each
    duplicates = 0
    for raw in texts:
        data, messages = raw.text.encode(), coded(raw.messages)
        split = raw.split or side_of_bytes(data, shares)
        pieces = [data] if messages else cut_bytes(data, max_document_bytes)
        for n, piece in enumerate(pieces, 1):
            if (raw.text if len(pieces) == 1 else piece.decode()).isspace():
                continue
            is_complete = raw.is_complete and n == len(pieces)
            document_id = id_of(piece, is_complete, messages)
            if document_id in seen:
                duplicates += 1
                continue
            seen.add(document_id)
            writer.add(piece, document_id, raw.domain, split, is_complete, messages, raw.prompt_bytes)
    return duplicates


def about_table(table: Table, duplicates: int = 0, skipped: Mapping[str, int] = MappingProxyType({})) -> About:
    """What is counted once, when a corpus is made."""
    about = About(duplicates, dict(skipped))
    both = table.split_codes.astype(np.int64) * len(table.domains) + table.domain_codes
    counts = np.bincount(both, minlength=len(SPLITS) * len(table.domains)).reshape(len(SPLITS), -1)
    for split, of_each in zip(SPLITS, counts.tolist(), strict=True):
        about.counts[split] = {d: count for d, count in zip(table.domains, of_each, strict=True) if count}
        about.keys[split] = Documents(table, ((split,), None)).key
    return about


def require_sides(corpus: Corpus, domain: str) -> None:
    """ValueError unless this domain has a document on each side that a run needs; it says which setting to change."""
    sides: tuple[Split, ...] = ("fusion", "validation", "test")
    counts = {split: corpus.count(split, domain) for split in sides}
    for split, count in counts.items():
        if not count:
            share = (
                "smaller corpus.validation_share and test_share"
                if split == "fusion"
                else f"a larger corpus.{split}_share"
            )
            raise ValueError(
                f"domain {domain!r} has no document on its {split!r} side, {sum(counts.values())} in all: give it more "
                f"text, or {share}"
                + (
                    f". {corpus.duplicates} duplicates were left out of corpus {corpus.name!r}; where the text of a domain is all in "
                    "another, remove one of the two"
                    if corpus.duplicates
                    else ""
                )
            )
