"""Intervals against drawing documents and seeds one by one, and against what a known distribution has."""

import math

import numpy as np
import pytest

from knowfuse.evaluation import Interval, compare
from knowfuse.evaluation import comparison as module

RANDOM = np.random.default_rng(3)
DOMAINS = ["code"] * 7 + ["docs"] * 5
IS_CODE = np.array(DOMAINS) == "code"
BYTES = RANDOM.integers(10, 900, 12)
NATS = {"one": RANDOM.gamma(2.0, 90.0, (1, 12)), "more": RANDOM.gamma(2.0, 90.0, (3, 12))}


def means(nats: np.ndarray, documents: np.ndarray) -> float:
    """Bits per byte of the domains' mean, of documents by index, with repetition."""
    of = IS_CODE[documents]
    each = [nats[its].sum() / (math.log(2) * BYTES[its].sum()) for its in (documents[of], documents[~of])]
    return sum(each) / 2


def test_figures_and_intervals_against_drawing_one_by_one() -> None:
    """Another generator of chance, so within what 20,000 draws leave to it: three of their standard errors, about 4 %."""
    got = compare(NATS, BYTES, DOMAINS, "one", draws=20_000)
    everything = np.arange(12)
    one = means(NATS["one"][0], everything)
    more = float(np.mean([means(row, everything) for row in NATS["more"]]))
    assert got["one"].bits_per_byte["mean"].value == pytest.approx(one)
    assert got["more"].bits_per_byte["mean"].value == pytest.approx(more)
    assert got["more"].more_than_baseline["mean"].value == pytest.approx(more - one)
    assert (got["one"].seeds, got["more"].seeds) == (1, 3)
    draws = []
    for _ in range(20_000):
        documents = np.concatenate([RANDOM.integers(0, 7, 7), RANDOM.integers(7, 12, 5)])
        by_seed = np.array([means(row, documents) for row in NATS["more"]])
        of_seeds = by_seed.mean() + RANDOM.standard_t(2) * by_seed.std(ddof=1) / math.sqrt(3)
        draws.append(of_seeds - means(NATS["one"][0], documents))
    low, high = np.quantile(draws, [0.025, 0.975])
    difference = got["more"].more_than_baseline["mean"]
    assert difference.low == pytest.approx(low, abs=0.04 * (high - low))
    assert difference.high == pytest.approx(high, abs=0.04 * (high - low))


def test_what_is_hard_for_both_does_not_hide_a_difference() -> None:
    """Paired: an LLM that pays 1 % less on every document is better for certain, however unlike the documents are."""
    got = compare({"a": NATS["one"], "b": 0.99 * NATS["one"]}, BYTES, DOMAINS, "a")
    mean = got["b"].more_than_baseline["mean"]
    assert mean.low < mean.value < mean.high < 0
    assert got["a"].bits_per_byte["mean"].low < got["b"].bits_per_byte["mean"].value
    assert got["a"].more_than_baseline["mean"] == module.Interval(0.0, 0.0, 0.0)


def test_seeds_widen_the_interval() -> None:
    """Two seeds that are far apart, over the same documents."""
    base = NATS["one"]
    close, far = np.concatenate([base, base * 1.001]), np.concatenate([base, base * 1.5])
    got = compare({"base": base, "close": close, "far": far}, BYTES, DOMAINS, "base")
    width = {
        name: row.more_than_baseline["mean"].high - row.more_than_baseline["mean"].low for name, row in got.items()
    }
    assert width["far"] > 100 * width["close"] > 0


@pytest.mark.parametrize(("seeds", "t", "error"), [(3, 4.303, 0.024), (5, 2.776, 0.011)])
def test_seeds_are_as_wide_as_students_t(seeds: int, t: float, error: float) -> None:
    """Over one document, t of tables; three times the relative error of the outer fortieth of 20,000 draws."""
    paid = RANDOM.gamma(2.0, 90.0, (seeds, 1))
    got = compare({"base": paid[:1], "more": paid}, BYTES[:1], ["code"], "base", draws=20_000)["more"]
    bits = paid / (math.log(2) * BYTES[0])
    want = t * bits.std(ddof=1) / math.sqrt(seeds)
    assert got.bits_per_byte["mean"].reach == pytest.approx((want, want), rel=3 * error)


def test_the_draws_are_the_same_every_time_and_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compare(NATS, BYTES, DOMAINS, "one", draws=100)
    monkeypatch.setattr(module, "MOST_NUMBERS", 12 * 7)
    assert compare(NATS, BYTES, DOMAINS, "one", draws=100) == first


def test_different_numbers_of_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"their numbers differ: \{'a': 2, 'b': 3\}; compare runs of the same seeds"):
        compare({"a": NATS["more"][:2], "b": NATS["more"]}, BYTES, DOMAINS, "a")


@pytest.mark.parametrize(
    ("low", "high", "side"), [(-2.0, -1.0, -1), (1.0, 2.0, 1), (-1.0, 1.0, 0), (0.0, 1.0, 0), (-1.0, -1.0, 0)]
)
def test_a_side_of_zero_is_that_of_all_of_an_interval_which_one_document_has_not(
    low: float, high: float, side: int
) -> None:
    assert Interval(1.0, low, high).side == side


def test_one_document_in_each_of_many_domains_reaches_nowhere_and_never_below_0() -> None:
    """Their mean is rounded otherwise than the drawn ones."""
    nats = {"one": RANDOM.gamma(2.0, 90.0, (1, 40)), "more": RANDOM.gamma(2.0, 90.0, (1, 40))}
    found = compare(nats, RANDOM.integers(10, 900, 40), [f"domain {n}" for n in range(40)], "one")
    mean = found["more"].more_than_baseline["mean"]
    assert mean.low == mean.high == pytest.approx(mean.value)
    assert min(mean.reach) == 0.0
    assert mean.side == 0


def test_a_mean_with_a_domain_of_one_document_is_on_no_side() -> None:
    """Its own draws are all the same, and those of the mean too close; the domain beside it is as sure as it was."""
    nats = {"one": np.full((1, 8), 100.0), "less": np.full((1, 8), 50.0) + RANDOM.random((1, 8))}
    more = compare(nats, RANDOM.integers(10, 900, 8), ["alone"] + ["docs"] * 7, "one")["less"].more_than_baseline
    assert more["mean"].high < 0
    assert {domain: figure.side for domain, figure in more.items()} == {"alone": 0, "docs": -1, "mean": 0}
