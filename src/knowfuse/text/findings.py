"""Is this a text? One check for all readers, which counts what they leave out and keeps what they cannot read."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

FIELD_SEPARATOR = "\n"  # between the texts of several fields of one row
TOLD = 10  # faults that an error lists
HOPELESS = 1000  # faults in one place after which the rest of it is not looked at
NULL, EMPTY, HALF_PAIR = "null", "empty", "half a surrogate pair"
_ABSENT = object()


class _Hopeless(Exception):
    """A place of which enough is known."""


class Findings:
    """What readers find while they walk through their texts: filled as they go, complete when they are through.

    `skipped` counts what was left out, by reason, and `first` says where the first of each stood. What cannot be read is
    a fault: all faults of all files are told at once, by `require_no_faults`.
    """

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self._faults: list[str] = []
        self._remedies: dict[str, None] = {}
        self._at: Counter[str] = Counter()
        self._is_all = True

    def skip(self, reason: str, place: str) -> None:
        """Leave something out."""
        self.skipped[reason] += 1
        self.first.setdefault(reason, place)

    def fault(self, place: str, what: str, remedy: str, within: str | None = None) -> None:
        """Note what cannot be read; a file that has too many of them, `within`, is left (see `one_place`)."""
        if len(self._faults) < TOLD:
            self._faults.append(f"{place} {what}")
            self._remedies[remedy] = None
        self._at[within or place] += 1
        if self._at[within or place] == HOPELESS:
            self._is_all = False
            raise _Hopeless

    @contextmanager
    def one_place(self) -> Iterator[None]:
        """Read one file or split: where it has too many faults the block ends, and the next place is looked at."""
        with suppress(_Hopeless):
            yield

    def num_faults(self) -> int:
        return self._at.total()

    def require_no_faults(self) -> None:
        """ValueError that tells all faults, the first few with their places, and what to do about them."""
        if not self._faults:
            return
        remedies = "; ".join(self._remedies)
        if self.num_faults() == 1:
            raise ValueError(f"{self._faults[0]}: {remedies}")
        more = self.num_faults() - len(self._faults)
        lines = [*self._faults, f"and {'' if self._is_all else 'at least '}{more:,} more"][
            : len(self._faults) + bool(more)
        ]
        told = "\n".join(f"  {line}" for line in lines)
        raise ValueError(f"the text has {self.num_faults():,} places that cannot be read\n{told}\n{remedies}")

    def text_of(
        self, record: Mapping[str, Any], fields: Sequence[str], place: str, row: int, setting: str
    ) -> str | None:
        """The text of a row: that of its field, or of several, one beneath the other.

        None where there is nothing to read: null and empty cells are counted and left out, half a surrogate pair sets
        the whole row aside, and what is no text, or not there, is a fault. `setting` names the fields.
        """
        cells = []
        for field in fields:
            cell = record.get(field, _ABSENT)
            if type(cell) is str and cell and not cell.isspace():
                cells.append(cell)
            elif type(cell) is str:
                self.skip(EMPTY, f"{place} {row}")
            elif cell is None or cell != cell:  # pandas writes a null as NaN
                self.skip(NULL, f"{place} {row}")
            else:
                self._no_text(record, field, f"{place} {row}", setting, place)
                return None
        if not cells:
            return None
        text = cells[0] if len(cells) == 1 else FIELD_SEPARATOR.join(cells)
        if not text.isascii() and not is_whole(text):
            self.skip(HALF_PAIR, f"{place} {row}")
            return None
        return text

    def _no_text(self, record: Mapping[str, Any], field: str, place: str, setting: str, within: str) -> None:
        if field not in record:
            what = f"has no text field {field!r}, it has {', '.join(map(repr, record)) or 'none'}"
        else:
            value = record[field]
            shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
            what = f"has no text in field {field!r}, but {type(value).__name__} {shown}"
        self.fault(place, what, f"set {setting} to a field that holds text in every row", within)


def is_whole(text: str) -> bool:
    """Whether the text can be written in UTF-8: half a surrogate pair (JSON may hold one, as \\ud83d) cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
