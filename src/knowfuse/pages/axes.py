"""Where does a value stand on a chart, and which round values are written beside it?"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WIDTH, HEIGHT = 360.0, 216.0  # of a chart, in its own units: at this width its letters are those of the page
LEFT, RIGHT, TOP, BOTTOM = 42.0, 12.0, 10.0, 36.0
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, number: int = 5) -> Iterator[tuple[float, str]]:
        """Round values inside, at most about so many, each where it stands and as it is written."""
        step = round_step((self.high - self.low) / number)
        first = math.ceil(self.low / step - 1e-9)
        for n in range(first, math.floor(self.high / step + 1e-9) + 1):
            yield self.at(n * step), written(n * step, step)


def spanning(values: Iterable[float], start: float, end: float, room: float = 0.06) -> Axis:
    """From the least of these to the largest, with some room: where the differences are, which need not be from 0."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    space = (high - low) * room or abs(high) * 0.05 or 1.0
    return Axis(low - space, high + space, start, end)


def round_step(least: float) -> float:
    """The first of 1, 2, 2.5, 5, times a power of ten, that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in STEPS if step * power >= least * (1 - 1e-9))


def written(value: float, step: float) -> str:
    """A round value, short: 20k, 1.5M, 0.002, 2e-5."""
    if value == 0:
        return "0"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and step >= size / 1000:
            return f"{value / size:.6g}{letter}"
    if abs(value) < 1e-3:
        return f"{value:.3g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{decimals + (1 if f'{step:e}'.startswith('2.5') else 0)}f}"
