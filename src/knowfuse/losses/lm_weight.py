"""How much of the loss is CLM, at each step of a fit?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from knowfuse.settings import require_choices

WeightSchedule = Literal["constant", "linear", "cosine", "headroom"]
AMPLE = 0.1  # of what the oracle pays: so far above it the target has all to learn from its sources


@dataclass(frozen=True)
class Headroom:
    """What the oracle over the sources pays on validation, and the target before training; bits per byte."""

    oracle: float
    before: float

    def left(self, now: float | None) -> float:
        """Which share of the way to the oracle is left, `now` or, None, before training: 1 at its beginning, 0 at the oracle and below.

        The way begins where the target does, or `AMPLE` of what the oracle pays above it, if that is nearer.
        """
        whole = min(self._above(self.before), AMPLE)
        left = self._above(self.before if now is None else now)
        return min(left / whole, 1.0) if left > 0.0 < whole else 0.0

    def _above(self, bits_per_byte: float) -> float:
        """By which share of what the oracle pays this is more."""
        return (bits_per_byte - self.oracle) / self.oracle


@dataclass(frozen=True)
class LmWeight:
    """The paper's lambda: `start` throughout, or from `start` at the first step to `end` at the last.

    `linear` goes there evenly, `cosine` slowly at both ends. `headroom` looks at validation, and goes evenly over the way that
    `Headroom.left` measures, to `end` (None: 1, plain CLM) where the target pays no more than the oracle over the sources, which then
    has nothing to teach it. Raises ValueError for a weight outside [0, 1], a schedule without an end, and an
    end without a schedule.
    """

    start: float
    schedule: WeightSchedule = "constant"
    end: float | None = None

    def __post_init__(self) -> None:
        require_choices(type(self), vars(self))
        if self.schedule is None:
            raise ValueError(f"lm_weight_schedule is null: choose one of {list(get_args(WeightSchedule))}")
        require_lm_weight(self.start)
        if self.end is not None:
            require_lm_weight(self.end, "lm_weight_end")
        if self.schedule == "constant" and self.end is not None:
            raise ValueError(
                f"lm_weight_end is {self.end} and lm_weight_schedule is constant, which has no end: set lm_weight_schedule to "
                "headroom, linear or cosine, or set lm_weight_end to null"
            )
        if self.schedule in ("linear", "cosine") and self.end is None:
            raise ValueError(
                f"lm_weight_schedule is {self.schedule} and lm_weight_end is not set: set it to the lm_weight of the last step"
            )

    def at(self, step: int, max_steps: int, left: float | None = None) -> float:
        """The weight of step `step`, the first of which is 0, of `max_steps`.

        `left` is the `Headroom.left` of the last validation: ValueError where `headroom` is to go by it and it is None.
        """
        if self.schedule == "constant":
            return self.start
        if self.schedule == "headroom":
            if left is None:
                raise ValueError("lm_weight_schedule=headroom goes by the oracle over the sources, and none was given")
            done = 1.0 - left
        else:
            done = min(step / max(max_steps - 1, 1), 1.0)
        if self.schedule == "cosine":
            done = (1.0 - math.cos(math.pi * done)) / 2.0
        return (1.0 - done) * self.start + done * self.last

    @property
    def last(self) -> float:
        """Where it goes, from `start`."""
        if self.end is not None:
            return self.end
        return 1.0 if self.schedule == "headroom" else self.start


def by_domain(
    lm_weight: float, others: Mapping[str, float], names: Sequence[str], domains: Int[Tensor, "B T"]
) -> float | Float[Tensor, " N"]:
    """`lm_weight` for every row, or for each its own: that of `others` where the name of its domain is among them."""
    if not any(name in others for name in names):
        return lm_weight
    weights = torch.tensor([others.get(name, lm_weight) for name in names], device=domains.device)
    return weights[domains.flatten()]


def require_lm_weight(lm_weight: float, name: str = "lm_weight") -> None:
    """ValueError unless the weight lies in [0, 1]."""
    if not 0.0 <= lm_weight <= 1.0:
        raise ValueError(f"{name} (the paper's lambda) must lie in [0, 1], got {lm_weight}")
