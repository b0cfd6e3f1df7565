"""What is made of a row: a text, or a conversation? What all readers of files and data sets ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from knowfuse.text.document import Conversation
from knowfuse.text.findings import Findings


@runtime_checkable
class Rows(Protocol):
    """Makes something to read of the rows of tables and of lines of JSON."""

    @property
    def holds(self) -> str:
        """What a row is read as: `text` or `conversation`."""
        ...

    @property
    def state(self) -> Any:
        """What decides what is made of a row, as JSON can hold it."""
        ...

    def columns(self, there: Sequence[str]) -> list[str]:
        """The columns of a table with these that are looked at; none where it has not what is wanted."""
        ...

    def of(self, record: Mapping[str, Any], place: str, row: int, findings: Findings) -> str | Conversation | None:
        """What a row holds; None where it holds nothing, which is among the findings."""
        ...


@dataclass(frozen=True)
class TextRows:
    """Reads the text of a field, or of several, one beneath the other; `setting` is where they are named."""

    fields: list[str]
    setting: str

    holds = "text"

    @property
    def state(self) -> Any:
        return self.fields

    def columns(self, there: Sequence[str]) -> list[str]:
        return self.fields

    def of(self, record: Mapping[str, Any], place: str, row: int, findings: Findings) -> str | None:
        return findings.text_of(record, self.fields, place, row, self.setting)
