"""Which documents does a step look at? Rows of a table, of which a document is made when asked for."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np

from knowfuse.ids import hex_names
from knowfuse.text.document import SPLITS, Document, Learn, Message, Split, decoded, learnt_spans
from knowfuse.text.table import Table, table_of

Chosen = tuple[tuple[Split, ...], str | None]  # the splits, and the domain or None for all


class Documents(Sequence[Document]):
    """Documents of a table in some order: arrays for all of them, a `Document` for one.

    `chosen` are their rows, or the splits and the domain that they have: it goes to other processes as it is. `learn` says
    what is learnt of them where they are conversations.
    """

    def __init__(
        self, table: Table, chosen: Chosen | np.ndarray, key: str | None = None, learn: Learn = "assistant"
    ) -> None:
        self.table, self._chosen = table, chosen
        self.learn: Learn = learn
        if key is not None:
            self.key = key

    @staticmethod
    def of(documents: Iterable[Document]) -> "Documents":
        """These documents; what is a view already stays one."""
        if isinstance(documents, Documents):
            return documents
        listed = list(documents)
        table = table_of(listed)
        learn: Learn = listed[0].learn if listed else "assistant"
        return Documents(table, np.arange(len(table)), learn=learn)

    @cached_property
    def rows(self) -> np.ndarray:
        """Their rows in the table, int64 [D]."""
        if isinstance(self._chosen, np.ndarray):
            return self._chosen
        splits, domain = self._chosen
        is_chosen = np.isin(self.table.split_codes, [SPLITS.index(split) for split in splits])
        if domain is not None:
            code = self.table.domains.index(domain) if domain in self.table.domains else -1
            is_chosen &= self.table.domain_codes == code
        return np.flatnonzero(is_chosen)

    @cached_property
    def key(self) -> str:
        """A content hash: the same for the same documents in the same order, whatever corpus they are from."""
        return digest_of(self.ids)

    @cached_property
    def ids(self) -> np.ndarray:
        """Their ids, 12 bytes each, [D]."""
        return self.table.ids[self.rows]

    @property
    def names(self) -> list[str]:
        """Their ids in hex: for people, and for few documents."""
        return hex_names(self.ids)

    @property
    def num_bytes(self) -> np.ndarray:
        """The bytes of each that are learnt, int64 [D]: of a plain text all but its prompt."""
        if self.table.messages is None:
            whole, prompts = self.table.num_bytes[self.rows], self.table.prompt_bytes
            return whole if prompts is None else whole - prompts[self.rows]
        spans = (learnt_spans(self.messages(place), self.learn, self.prompt_bytes(place)) for place in range(len(self)))
        return np.array([sum(span.end - span.begin for span in its) for its in spans], dtype=np.int64)

    def messages(self, place: int) -> tuple[Message, ...]:
        """Those of the conversation at this place; of a plain text none."""
        return decoded(self.table.coded_messages(int(self.rows[place])))

    def prompt_bytes(self, place: int) -> int:
        """Those at the beginning of the document at this place that are not learnt."""
        return self.table.prompt_of(int(self.rows[place]))

    @property
    def is_learnt_whole(self) -> bool:
        """Whether every token of every one of them is learnt."""
        return not self.is_chat and self.table.prompt_bytes is None

    @property
    def is_chat(self) -> bool:
        """Whether they are conversations."""
        return self.table.messages is not None

    def take(self, places: np.ndarray) -> "Documents":
        """Those at these places, or those where a mask is true."""
        return Documents(self.table, self.rows[places], learn=self.learn)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> "Documents": ...
    def __getitem__(self, index: int | slice) -> "Document | Documents":
        if isinstance(index, slice):
            return Documents(self.table, self.rows[index], learn=self.learn)
        return self.table.document(int(self.rows[index]), self.learn)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("rows", "ids")}


def digest_of(ids: np.ndarray) -> str:
    """The content hash of documents in this order."""
    return hashlib.sha256(ids.tobytes()).hexdigest()
