"""What is kept of a fit's way: every step once, whatever stopped it; no more than a page can show."""

import json
import math
from pathlib import Path

import pytest

from knowfuse.training import curves
from knowfuse.training.curves import CURVES, Curves, read_curves

VALIDATED = {"val/bits_per_byte": 2.0}


def logged(folder: Path, *steps: int, value: float = 1.0) -> None:
    """A fit that logs these steps, is validated after the last, and dies."""
    kept = Curves(folder)
    for step in steps:
        kept.log_metrics({"train/loss_nats": value * step, "share/mpt": 0.5}, step)
    kept.log_metrics(VALIDATED, steps[-1])


def test_a_fit_that_goes_on_has_every_step_once(tmp_path: Path) -> None:
    """From a checkpoint at step 10; the steps after it, that are trained again, are those of the second time."""
    logged(tmp_path, 4, 9, 14, 19)
    logged(tmp_path, 14, 19, 24, value=2.0)
    got = read_curves(tmp_path)
    assert {step: row["train/loss_nats"] for step, row in got.items()} == {4: 4.0, 9: 9.0, 14: 28.0, 19: 38.0, 24: 48.0}
    assert all(list(row) == ["train/loss_nats"] for row in got.values())


def test_a_fit_that_fails_before_its_first_step_leaves_the_way_there(tmp_path: Path) -> None:
    logged(tmp_path, 4, 9)
    Curves(tmp_path).finalize("failed")
    kept = Curves(tmp_path)
    kept.log_metrics({"best/val_bits_per_byte": 2.0}, 10)  # as of a fit of which nothing was left to do
    kept.finalize("success")
    assert list(read_curves(tmp_path)) == [4, 9]


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    kept = Curves(tmp_path)
    kept.log_metrics({"train/loss_nats": math.nan, "train/tokens": 10.0}, 0)
    kept.log_metrics({"train/loss_nats": 1.5}, 1)
    kept.finalize("success")
    assert read_curves(tmp_path) == {0: {"train/tokens": 10.0}, 1: {"train/loss_nats": 1.5}}
    assert "NaN" not in (tmp_path / CURVES).read_text()


def test_a_long_fit_keeps_steps_at_even_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on so where it was stopped."""
    monkeypatch.setattr(curves, "MOST_STEPS", 8)
    logged(tmp_path, *range(20))
    before = list(read_curves(tmp_path))
    assert before == [0, 4, 8, 12, 16]
    logged(tmp_path, *range(20, 32))
    assert list(read_curves(tmp_path)) == [0, 4, 8, 12, 16, 20, 24, 28]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / CURVES).write_text(json.dumps({"step": [1]}))
    with pytest.raises(ValueError, match=r"curves\.json' is cut off or damaged .*remove it"):
        read_curves(tmp_path)
