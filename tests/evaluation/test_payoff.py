"""The gain is a share of what lies between CLM and the oracle, and nothing where CLM is the better."""

import math

import numpy as np
import pytest

from knowfuse.evaluation.learning_curve import Estimate
from knowfuse.evaluation.payoff import payoff, share_after


def test_without_errors_it_is_the_share_of_the_distance() -> None:
    found = payoff(Estimate(2.8, 0.0), Estimate(2.3, 0.0), passes=2.0)
    assert found.gain.value == pytest.approx(0.5 * share_after(2.0).value, abs=1e-6)
    assert found.gain.error == pytest.approx(0.5 * share_after(2.0).error, abs=1e-6)
    assert found.answer == "yes"


def test_nothing_is_to_be_gained_beyond_the_oracle() -> None:
    found = payoff(Estimate(2.2, 0.01), Estimate(2.4, 0.01), passes=8.0)
    assert found.gain.value == pytest.approx(0.0, abs=1e-9)
    assert found.answer == "no"


@pytest.mark.parametrize("distance", [-0.05, 0.0, 0.03, 0.2])
def test_it_is_what_many_draws_give(distance: float) -> None:
    """Mean, standard deviation and probability against 400,000 draws of CLM, oracle and share; within four errors of theirs."""
    rng = np.random.default_rng(0)
    clm, oracle = Estimate(2.0 + distance, 0.04), Estimate(2.0, 0.03)
    draws = 400_000
    share = rng.normal(share_after(3.0).value, share_after(3.0).error, draws)
    between = rng.normal(clm.value, clm.error, draws) - rng.normal(oracle.value, oracle.error, draws)
    gains = share * np.maximum(between, 0.0)
    found = payoff(clm, oracle, passes=3.0)
    assert abs(found.gain.value - gains.mean()) < 4 * gains.std() / math.sqrt(draws)
    assert found.gain.error == pytest.approx(gains.std(), rel=0.01)
    assert found.probability == pytest.approx((between > 0).mean(), abs=0.004)


def test_what_the_figures_do_not_tell_is_open() -> None:
    assert payoff(Estimate(2.0, 0.05), Estimate(2.0, 0.01), passes=1.0).answer == "open"


@pytest.mark.parametrize(("passes", "share"), [(1.0, 0.122), (2.0, 0.2), (4.0, 0.37), (8.0, 0.463), (50.0, 0.463)])
def test_the_share_is_what_was_measured(passes: float, share: float) -> None:
    """Means of the places of docs/results/regime_quickstart.csv by their passes, within two standard deviations; beyond 8 none was seen."""
    found = share_after(passes)
    assert abs(found.value - share) < 2 * found.error
    assert found.value <= share_after(8.0).value
