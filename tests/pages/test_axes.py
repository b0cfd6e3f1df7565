"""Axes begin where values differ, and say it in round numbers."""

import math

import pytest

from knowfuse.pages import Dot, Line, areas, dots, lines
from knowfuse.pages.axes import spanning, written
from knowfuse.pages.charts import MOST_POINTS, thinned


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([2.61, 2.69], ["2.62", "2.64", "2.66", "2.68"]),
        ([0.0, 150e3], ["0", "50k", "100k", "150k"]),
        ([0.0, 2e-3], ["0", "0.0005", "0.0010", "0.0015", "0.0020"]),
        ([0.0, 2e-5], ["0", "5e-06", "1e-05", "1.5e-05", "2e-05"]),
        ([1e6, 3e6], ["1M", "1.5M", "2M", "2.5M", "3M"]),
        ([0.0, 1.1], ["0", "0.25", "0.50", "0.75", "1.00"]),
    ],
)
def test_ticks_are_round_and_inside(values: list[float], want: list[str]) -> None:
    axis = spanning(values, 0.0, 100.0)
    places = [at for at, _ in axis.ticks()]
    assert [text for _, text in axis.ticks()] == want
    assert places == sorted(places)
    assert 0.0 <= places[0] < places[-1] <= 100.0
    assert [axis.at(axis.low), axis.at(axis.high)] == pytest.approx([0.0, 100.0])


@pytest.mark.parametrize("values", [[1.5], [0.0, 0.0], [], [math.nan, 2.0], [-3.0]])
def test_one_value_or_none_still_has_an_axis(values: list[float]) -> None:
    axis = spanning(values, 0.0, 1.0)
    assert axis.low < axis.high
    assert list(axis.ticks())


def test_a_tick_is_short() -> None:
    assert [written(v, s) for v, s in [(1.2e9, 1e8), (2500.0, 500.0), (1002.0, 0.5)]] == ["1.2G", "2.5k", "1002.0"]


def test_a_long_line_is_thinned_to_means_between_its_ends() -> None:
    points = [(float(n), float(n % 2)) for n in range(10_000)]
    kept = list(thinned(points))
    assert MOST_POINTS / 2 < len(kept) <= MOST_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert all(abs(value - 0.5) < 0.02 for _, value in kept[1:-2])
    assert thinned(points[:5]) == points[:5]


def test_charts_hold_every_figure_and_no_nan() -> None:
    drawn = lines(
        [Line("<fit>", "red", [(1.0, 2.0), (2.0, math.nan), (3.0, 1.0)])], "tokens", "bits", (2.0, 1.5, "here")
    )
    assert "&lt;fit&gt;" in drawn
    assert "here" in drawn
    assert drawn.count("L") == 1, "two points that are numbers"
    assert "nan" not in drawn
    assert "1.2346 (1.0000 to 2.0000)" in dots([Dot("one", "red", 1.23456, 1.0, 2.0), Dot("two", "blue", 1.5)], "bits")
    assert areas({"a": [0.25], "b": [0.75]}, {"a": "red", "b": "blue"}, [100.0], "tokens").count("<polygon") == 2
