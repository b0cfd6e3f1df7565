"""The weight of CLM at each step, against its definition by hand; what is no schedule is refused."""

import math

import pytest
import torch

from knowfuse.losses import Headroom, LmWeight, by_domain


def test_a_constant_weight_is_the_number_itself() -> None:
    assert [LmWeight(0.9).at(step, 7) for step in (0, 3, 6, 100)] == [0.9] * 4


def test_a_line_from_the_first_step_to_the_last() -> None:
    assert [LmWeight(0.2, "linear", 1.0).at(step, 5) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert LmWeight(0.9, "linear", 0.1).at(4, 5) == 0.1


def test_half_a_cosine_from_the_first_step_to_the_last() -> None:
    wanted = [0.5 + (0.1 - 0.5) * (1 - math.cos(math.pi * step / 8)) / 2 for step in range(9)]
    assert [LmWeight(0.5, "cosine", 0.1).at(step, 9) for step in range(9)] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("now", "weight"), [(None, 0.3), (2.6, 0.3), (2.2, 0.3), (2.15, 0.475), (2.1, 0.65), (2.0, 1.0), (1.5, 1.0)]
)
def test_the_weight_rises_as_the_target_comes_near_the_oracle(now: float | None, weight: float) -> None:
    """Which pays 2: from a tenth above it to it, wherever the step is; before the first validation, as the target was before."""
    left = Headroom(oracle=2.0, before=3.0).left(now)
    for step in (0, 5, 9):
        assert LmWeight(0.3, "headroom").at(step, 10, left) == pytest.approx(weight)
        assert LmWeight(0.3, "headroom", 0.3).at(step, 10, left) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("now", "left"), [(None, 1.0), (2.3, 1.0), (2.08, 1.0), (2.06, 0.75), (2.02, 0.25), (2.0, 0.0)]
)
def test_a_short_way_to_the_oracle_begins_where_the_target_did(now: float | None, left: float) -> None:
    """It pays 4 % more than the oracle: it has as much to learn as there is."""
    assert Headroom(oracle=2.0, before=2.08).left(now) == pytest.approx(left)


@pytest.mark.parametrize("now", [None, 2.5, 1.7])
def test_nothing_is_left_for_a_target_that_knew_more_than_the_oracle(now: float | None) -> None:
    """Whatever it has unlearnt since."""
    assert Headroom(oracle=2.0, before=1.9).left(now) == 0.0


def test_a_weight_by_headroom_needs_it() -> None:
    with pytest.raises(
        ValueError, match="lm_weight_schedule=headroom goes by the oracle over the sources, and none was"
    ):
        LmWeight(0.3, "headroom", 1.0).at(0, 10)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_fit_of_one_step_starts_and_nothing_goes_beyond_the_end(schedule: str) -> None:
    weight = LmWeight(0.2, schedule, 0.8)  # type: ignore[arg-type]
    assert weight.at(0, 1) == 0.2
    assert weight.at(9, 5) == weight.at(4, 5) == 0.8


@pytest.mark.parametrize(
    ("schedule", "start", "end", "message"),
    [
        ("constant", -0.1, None, r"lm_weight \(the paper's lambda\) must lie in \[0, 1\], got -0\.1"),
        ("linear", 0.1, math.nan, r"lm_weight_end \(the paper's lambda\) must lie in \[0, 1\], got nan"),
        (
            "linear",
            0.1,
            None,
            r"lm_weight_schedule is linear and lm_weight_end is not set: set it to the lm_weight of the last",
        ),
        (
            "constant",
            0.1,
            0.9,
            r"lm_weight_end is 0\.9 and lm_weight_schedule is constant, which has no end: set lm_weight_sch",
        ),
    ],
)
def test_what_is_no_schedule_is_refused(schedule: str, start: float, end: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LmWeight(start, schedule, end)  # type: ignore[arg-type]


def test_a_weight_of_a_domain_is_on_its_rows() -> None:
    domains = torch.tensor([[0, 0, 2], [1, 2, 0]])
    assert by_domain(0.3, {"own": 0.0}, ["code", "docs"], domains) == 0.3
    weights = by_domain(0.3, {"own": 0.0}, ["code", "docs", "own"], domains)
    assert torch.equal(torch.as_tensor(weights), torch.tensor([0.3, 0.3, 0.0, 0.3, 0.0, 0.3]))
