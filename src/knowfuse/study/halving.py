"""Which points of a large grid are worth all its seeds and steps? The better half of them goes on, round after round.

Chosen by validation alone; test is not looked at.

Source: Jamieson and Talwalkar 1502.07943 (successive halving).
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knowfuse.screen import say
from knowfuse.study.point import Point
from knowfuse.study.runs import Finished, Runs


@dataclass(frozen=True)
class Round:
    """How long every point that is left is tried, and how many are left after it."""

    settings: Mapping[str, Any]  # such as fewer steps
    seeds: Sequence[int]
    keep: int


def halved(
    runs: Runs, points: Sequence[Point], rounds: Sequence[Round], method: str = "fused"
) -> tuple[list[Point], list[list[Finished]]]:
    """The points that are left after the last round, the best first, and the runs of every round.

    A point's figure is the best validation bits per byte of this method, mean over the seeds. ValueError where a round
    keeps none.
    """
    left, seen = list(points), []
    for number, each in enumerate(rounds, 1):
        if each.keep < 1:
            raise ValueError(f"round {number} of the halving keeps {each.keep} points: it must be at least 1")
        say(f"round {number}: {len(left)} points x {len(each.seeds)} seeds, {each.keep} are kept")
        tried = runs.run_all([point.plus(each.settings) for point in left], each.seeds)
        seen.append(tried)
        figures = {
            point.name: statistics.fmean(
                run.fits[method].best_bits_per_byte for run in tried if run.point.name == point.name
            )
            for point in left
        }
        left = sorted(left, key=lambda point: figures[point.name])[: each.keep]
    return left, seen
