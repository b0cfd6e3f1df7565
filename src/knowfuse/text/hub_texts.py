"""Which texts does a data set give to a domain, and on which sides? Of its own splits where it has them, else by hash."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from knowfuse.text.document import Conversation, RawDocument, Split, side_of
from knowfuse.text.findings import Findings
from knowfuse.text.hub_dataset import HubDataset
from knowfuse.text.hub_rows import HubRows
from knowfuse.text.rows import Rows, TextRows
from knowfuse.text.settings import fields_of
from knowfuse.text.weights import drawn


class HubTexts:
    """The texts of one domain that come from a data set; `shares` are of the sides that are split by hash.

    `read_as` says what is made of a row; None: a text of the field that the data set's settings name.
    """

    def __init__(
        self, domain: str, data: HubDataset, shares: Mapping[Split, float], read_as: Rows | None = None
    ) -> None:
        self.domain, self.data, self.shares = domain, data, shares
        self.read_as = read_as or TextRows(fields_of(data.text_field, "text_field"), f"text_field of {domain}")
        self.rows = HubRows(data, self.read_as)

    def state(self, memo: Path | None) -> Any:
        """What decides the texts: the settings, and the content of the data set."""
        settings = {key: value for key, value in vars(self.data).items() if key not in ("path", "revision")}
        read_as = (
            [] if self.read_as.holds == "text" else [self.read_as.state]
        )  # the fields of a text are among the settings
        return [self.domain, settings, self.rows.content(memo), *read_as]

    @property
    def is_limited(self) -> bool:
        return self.data.is_limited

    def held_out(self, findings: Findings) -> Iterator[RawDocument]:
        """Of its own test split, then of its own validation split, so far as it has them."""
        for side, split in self._own_splits.items():
            for text in self._texts(split, findings, self.data.num_held_out, None, None):
                yield RawDocument.of(text, self.domain, side)

    def training(self, findings: Findings, seed: str | None) -> Iterator[RawDocument]:
        """Of its training split, all in order, or those that are drawn by the seed; some are held out by their hash."""
        shares = dict(self.shares)
        for side in ("fusion", *self._own_splits):
            del shares[side]
        shares["fusion"] = 1.0 - sum(shares.values())
        for found in self._texts(self._train_split, findings, self.data.num_documents, self.data.num_bytes, seed):
            raw = RawDocument.of(found, self.domain)
            yield replace(raw, split=side_of(raw.text, shares))

    @cached_property
    def _train_split(self) -> str:
        (only, *others) = self.rows.splits
        if not others and self.data.train_split == "train":
            return only  # whatever it is called
        return self._required("train_split", "one of them")

    @cached_property
    def _own_splits(self) -> dict[Split, str]:
        """Which splits are held out; a data set with one split has none."""
        own: dict[Split, str] = {}
        sides: tuple[Split, ...] = ("test", "validation")
        for side in sides:
            if len(self.rows.splits) > 1 and getattr(self.data, f"{side}_split") is not None:
                remedy = f"one of them, or to null for corpus.{side}_share of its training split, by hash"
                own[side] = self._required(f"{side}_split", remedy)
        return own

    def _required(self, setting: str, remedy: str) -> str:
        split = getattr(self.data, setting)
        if (split if self.data.streaming else split.partition("[")[0]) not in self.rows.splits:
            there = ", ".join(map(repr, self.rows.splits))
            raise ValueError(
                f"data set {self.data.path!r} has no split {split!r}, it has {there}: set its {setting} to {remedy}"
            )
        return split

    def _texts(
        self, split: str, findings: Findings, num_texts: int | None, num_bytes: int | None, seed: str | None
    ) -> Iterator[str | Conversation]:
        """Of one split, until it has given so many texts, or so many bytes.

        With a seed they are drawn: from all that the split has, of a stream from a pool.
        """
        given = 0
        if seed is not None and self.data.streaming:
            read = drawn(self._read(split, findings, None), seed)
        else:
            read = self._read(split, findings, seed)
        for texts, found in enumerate(read, 1):
            yield found
            text = found if isinstance(found, str) else found.text
            given += len(text) if text.isascii() else len(text.encode())
            if texts == num_texts or (num_bytes is not None and given >= num_bytes):
                return

    def _read(self, split: str, findings: Findings, seed: str | None) -> Iterator[str | Conversation]:
        """All texts of one split; whatever its rows hold that is none is among the findings."""
        place = f"data set {self.data.path!r}, split {split!r}, row"
        number = None if seed is None else int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4])
        with findings.one_place():
            for row, record in self.rows.read(split, number):
                text = self.read_as.of(record, place, row, findings)
                if text is not None:
                    yield text
