"""Points of a study: their names, and what Hydra reads of them."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from knowfuse.study import Point, axis, grid

SETTINGS = {
    "alignment": "byte_exact",
    "learning_rates": [0.002, 1e-05],
    "corpus.files": {"my": ["notes, 2026 (1).txt"]},
    "+sources.code.path": "/models/a b",
    "compare_with_clm": False,
    "clm_learning_rates": None,
    "~target": None,
}


def test_hydra_reads_the_values_that_were_written() -> None:
    parsed = OverridesParser.create().parse_overrides(Point("all", SETTINGS).overrides(3))
    read = {one.get_key_element(): one.value() for one in parsed}
    assert read == {**SETTINGS, "seed": 3}


def test_a_point_of_a_command_line_is_the_same() -> None:
    given = Point("", SETTINGS).overrides()
    assert Point.of(given) == Point(" ".join(given), SETTINGS)


def test_a_grid_is_every_place_of_its_axes() -> None:
    """The first axis outermost; what a name says is what is set."""
    points = grid(axis("fusion", ["min_ce", "avg_ce"]), axis("top_k", [5, 64]))
    assert [point.name for point in points] == [
        "fusion=min_ce, top_k=5",
        "fusion=min_ce, top_k=64",
        "fusion=avg_ce, top_k=5",
        "fusion=avg_ce, top_k=64",
    ]
    assert points[2].settings == {"fusion": "avg_ce", "top_k": 5}


def test_what_is_gone_was_never_set() -> None:
    """Other sources in the place of those of before: none of those is left, and what is called alike is."""
    before = Point("", {"~sources": None, "+sources.a.path": "a", "+sources.b.path": "b", "sourceship": 1, "top_k": 5})
    after = before.plus({"~sources": None, "+sources.c.path": "c"})
    assert after.overrides() == ["sourceship=1", "top_k=5", "~sources", "+sources.c.path=c"]
    assert (Point("", {"sources": "mine"}) + after).overrides() == after.overrides()


@pytest.mark.parametrize("wrong", ["fusion", "a b=c"])
def test_what_is_no_override_is_refused(wrong: str) -> None:
    with pytest.raises(Exception, match=r"hydra\.cc/docs"):
        Point.of([wrong])
