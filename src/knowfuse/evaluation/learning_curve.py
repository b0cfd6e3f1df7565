"""What will an LLM reach on all of a text, by what it reached on parts of it?

`bits(n) = floor + (before - floor) * (1 + (n / scale) ** shape) ** -power`: what an LLM pays that has learnt from `n` bytes, which
falls from what it pays before, with `n ** shape` as long as that is little, then as a power of the text, to a floor that no text
of this kind takes it below. A few short fits do not say which numbers are the true ones. All that could be are asked what
they lead to, and each counts by how well it fits.

Source: Hestness et al., arXiv 1712.00409 (a power of the text down to a floor). Differs: it begins at an LLM that was trained
before, from which the first texts lead away more slowly than any power of one number (the quickstart's: with `n ** 0.6`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

FLOORS = np.linspace(0.0, 0.999, 40)  # of the lowest figure
SHAPES = np.linspace(0.4, 1.0, 7)
POWERS = np.geomspace(0.05, 2.0, 24)
SCALES = np.geomspace(1e-2, 1e3, 32)  # of the largest part
LEAST_PARTS = 3  # two tell a slope, and the third how it changes


@dataclass(frozen=True)
class Estimate:
    """A figure in bits per byte and its standard error."""

    value: float
    error: float


def extrapolated(before: float, reached: Mapping[int, float], to: int, noise: float) -> Estimate:
    """Bits per byte after `to` bytes of text: `before` without any, `reached` after the bytes that are its keys.

    `noise` is by how much, in bits per byte, a figure of `reached` would differ with another seed; where no curve fits them so
    well, it is as much as the best one leaves. ValueError for fewer than three figures, and where nothing was learnt by any of
    them: both have no curve.
    """
    if len(reached) < LEAST_PARTS:
        raise ValueError(f"a curve needs {LEAST_PARTS} parts of the text, got {len(reached)}")
    parts, bits = np.array(list(reached), dtype=np.float64), np.array(list(reached.values()))
    if not bits.min() < before:
        raise ValueError(
            f"on no part of the text did the LLM get below the {before:.3f} bits per byte that it paid before: there is no curve; "
            "set learning_rates lower"
        )
    floors = (FLOORS * bits.min())[:, None, None, None]

    def after(text: float) -> Float64[np.ndarray, "F P S E"]:
        left = (1.0 + (text / (SCALES[:, None] * parts.max())) ** SHAPES) ** -POWERS[
            :, None, None
        ]  # of what is to be learnt
        return floors + (before - floors) * left

    squares = sum(((after(part) - its) ** 2 for part, its in zip(parts, bits, strict=True)), np.zeros(1))
    spread = max(noise, math.sqrt(squares.min() / len(parts)))
    weights = np.exp(-(squares - squares.min()) / (2.0 * spread**2))
    weights /= weights.sum()
    leads_to = after(float(to))
    value = float((weights * leads_to).sum())
    return Estimate(value, math.sqrt(float((weights * (leads_to - value) ** 2).sum()) + spread**2))
