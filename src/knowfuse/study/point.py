"""What is one place of a study? A name, and the settings of `train.py` that make it; the seed is apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from knowfuse.text.quoting import literal


@dataclass(frozen=True)
class Point:
    """Settings by their names on the command line: a group's, a dotted one, `+new.one`, or `~gone` with any value."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(overrides: Sequence[str]) -> "Point":
        """Of a command line, such as the one of a script; raises what Hydra raises for what is no override."""
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        settings = {one.get_key_element(): one.value() for one in parsed}
        return Point(" ".join(overrides), settings)

    def overrides(self, seed: int | None = None) -> list[str]:
        """As `train.py` takes them; None: no seed among them."""
        given = {**self.settings, **({} if seed is None else {"seed": seed})}
        return [key if key.startswith("~") else f"{key}={literal(value)}" for key, value in given.items()]

    def plus(self, settings: Mapping[str, Any]) -> "Point":
        """The same place with these settings too; a `~gone` among them takes what was set of it before along."""
        gone = tuple(f"{key[1:]}." for key in settings if key.startswith("~"))
        left = {key: value for key, value in self.settings.items() if not f"{key.lstrip('+~')}.".startswith(gone)}
        return Point(self.name, {**left, **settings})

    def __add__(self, other: "Point") -> "Point":
        """Both at once, the other's settings last."""
        names = ", ".join(name for name in (self.name, other.name) if name)
        return Point(names, self.plus(other.settings).settings)


def axis(setting: str, values: Sequence[Any]) -> list[Point]:
    """A place for each value of one setting."""
    return [Point(f"{setting}={literal(value)}", {setting: value}) for value in values]


def grid(*axes: Sequence[Point]) -> list[Point]:
    """Every place of the first axis with every one of the second, and so on."""
    return reduce(lambda rows, columns: [row + column for row in rows for column in columns], axes, [Point("")])
