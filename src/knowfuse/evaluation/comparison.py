"""Is one LLM better than another, or could it be these documents and these seeds? Paired intervals over both.

Documents are drawn anew within their domain, two thousand times over. Seeds are too few for that: of drawn seeds, intervals that say
95 % hold the mean over others in 61 of 100 cases with two seeds, in 87 with five. What the mean over them is off in a draw is Student's t,
from how they scatter on the drawn documents. Every LLM is asked about the same draws, so that what is hard for all does not hide a
difference between two.

Source: Efron 1979 (bootstrap); Koehn 2004 (paired, of test documents); Bouthillier et al. 2103.03098 (seeds as one more level);
Student 1908 (few).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from knowfuse.evaluation.by_document import ByDocument
from knowfuse.evaluation.samples import baseline_of

DRAWS = 2000
LEVEL = 0.95
MOST_NUMBERS = 2**24  # of draws times documents that are held at a time


@dataclass(frozen=True)
class Interval:
    """A figure in bits per byte, and between which values it lies in 95 of 100 draws."""

    value: float
    low: float
    high: float
    is_sure: ClassVar[bool] = True

    @property
    def side(self) -> int:
        """Of 0, on which all of it lies: -1 below, 1 above; 0 where it holds 0, has no width, or is not sure."""
        return 0 if self.low >= self.high or not self.is_sure else -1 if self.high < 0 else 1 if self.low > 0 else 0

    @property
    def reach(self) -> tuple[float, float]:
        """How far it goes below its value and above it, at least 0: the value is a sum of its own, and rounded so."""
        return max(self.value - self.low, 0.0), max(self.high - self.value, 0.0)


@dataclass(frozen=True)
class Unsure(Interval):
    """Of a domain with one document, or of a mean with such a domain: all draws of it are the same, and tell nothing of others."""

    is_sure: ClassVar[bool] = False


@dataclass
class Compared:
    """One LLM, by domain and as the domains' mean: what it pays, and how much more than the baseline."""

    bits_per_byte: dict[str, Interval]
    more_than_baseline: dict[str, Interval]  # below 0: better
    seeds: int


def compare_run(scores: ByDocument) -> dict[str, Compared]:
    """Every LLM of one run against its baseline, over the documents that all can read."""
    shared = scores.shared()
    nats = {name: paid[None] for name, paid in shared.nats.items()}
    return compare(nats, shared.num_bytes, shared.domains, baseline_of(shared))


def compare(
    nats: Mapping[str, Float64[np.ndarray, "seeds D"]],
    num_bytes: Int64[np.ndarray, " D"],
    domains: Sequence[str],
    baseline: str,
    draws: int = DRAWS,
) -> dict[str, Compared]:
    """Each LLM against the baseline, over the same documents.

    An LLM that was trained with several seeds has a row of nats for each, and its figure is their mean; row s of all of
    them is of the same seed, and counts as much in each draw. The draws are the same in every call. ValueError where LLMs with
    several seeds have different numbers of them.
    """
    several = {name: len(rows) for name, rows in nats.items() if len(rows) > 1}
    if len(set(several.values())) > 1:
        raise ValueError(
            f"seeds are drawn in pairs, but their numbers differ: {several}; compare runs of the same seeds"
        )
    random = np.random.default_rng(0)
    seeds = max(several.values(), default=1)
    seed_weights = _seed_weights(seeds, draws, random)
    found: dict[str, dict[str, float]] = {name: {} for name in nats}
    drawn: dict[str, dict[str, Float64[np.ndarray, " draws"]]] = {name: {} for name in nats}
    for domain in sorted(set(domains)):
        inside = np.flatnonzero(np.array(domains) == domain)
        columns = [num_bytes[inside].astype(np.float64), *(row for rows in nats.values() for row in rows[:, inside])]
        size, *paid = _resampled(np.stack(columns, 1), random, draws).T * [[math.log(2)], *[[1.0]] * (len(columns) - 1)]
        for name, rows in nats.items():
            mine = np.stack([paid.pop(0) for _ in rows], 1)  # [draws, seeds]
            drawn[name][domain] = (mine * seed_weights if len(rows) > 1 else mine).sum(1) / size
            found[name][domain] = float(rows[:, inside].mean(0).sum() / (num_bytes[inside].sum() * math.log(2)))
    for name in nats:
        found[name]["mean"] = float(np.mean(list(found[name].values())))
        drawn[name]["mean"] = np.mean(list(drawn[name].values()), axis=0)
    alone = {domain for domain, count in Counter(domains).items() if count == 1}
    unsure = alone | {"mean"} if alone else alone
    return {
        name: Compared(
            {d: _interval(value, drawn[name][d], d not in unsure) for d, value in found[name].items()},
            {
                d: _interval(value - found[baseline][d], drawn[name][d] - drawn[baseline][d], d not in unsure)
                for d, value in found[name].items()
            },
            len(rows),
        )
        for name, rows in nats.items()
    }


def _seed_weights(seeds: int, draws: int, random: np.random.Generator) -> Float64[np.ndarray, "draws seeds"]:
    """How much each seed counts in each draw, in all 1: a mean so weighed is s / sqrt(seeds) times Student's t off the mean over them.

    `s` is their standard deviation; normal numbers off their mean, over the root of a chi-squared one, have that sum with any figures.
    """
    if seeds == 1:
        return np.ones((draws, 1))
    normal = random.standard_normal((draws, seeds))
    off = normal - normal.mean(1, keepdims=True)
    return 1 / seeds + off / np.sqrt(seeds * random.chisquare(seeds - 1, (draws, 1)))


def _resampled(
    values: Float64[np.ndarray, "D columns"], random: np.random.Generator, draws: int
) -> Float64[np.ndarray, "draws columns"]:
    """The sums over documents that are drawn anew, as many as there are."""
    documents = len(values)
    at_once = max(1, MOST_NUMBERS // documents)
    sums = []
    for first in range(0, draws, at_once):
        counts = random.multinomial(documents, np.full(documents, 1 / documents), min(at_once, draws - first))
        sums.append(counts.astype(np.float64) @ values)
    return np.concatenate(sums)


def _interval(value: float, drawn: Float64[np.ndarray, " draws"], is_sure: bool) -> Interval:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return (Interval if is_sure else Unsure)(value, float(low), float(high))
