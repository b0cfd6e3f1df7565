"""`benchmarks/specialists.py --steps`: each method trains as long as is best for it, by validation alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import specialists
from commands_for_tests import ROOT
from runs_for_tests import left_by_train

from knowfuse.study import Point, Runs

BEST = {60: {"clm": 2.0, "fused": 1.9}, 180: {"clm": 2.1, "fused": 1.7}}  # on validation, by steps


def runs_of(folder: Path, best: Mapping[int, Mapping[str, float]]) -> Runs:
    def start(program: str, overrides: Sequence[str], root: Path) -> None:
        given = dict(one.split("=", 1) for one in overrides)
        fits = best[int(given["trainer.max_steps"])]
        left_by_train(
            Path(given["hydra.run.dir"].strip('"')),
            {"target before": [30.0] * 8, **{f"target {m}": [10 * bits] * 8 for m, bits in fits.items()}},
            {
                method: bits
                for method, bits in fits.items()
                if method == "fused" or given.get("compare_with_clm") != "false"
            },
            seed=int(given["seed"]),
        )

    return Runs(folder, ROOT, None, start)


def tuned(runs: Runs, steps: Sequence[int] = (60, 180), seeds: int = 1) -> dict[str, list[Any]]:
    asked: Any = SimpleNamespace(rates=[0.002], gates=["none"], steps=list(steps), seeds=seeds)
    ours: Any = SimpleNamespace(point=Point("", {"trainer.max_steps": 60, "trainer.val_check_interval": 20}))
    return specialists.tuned(runs, ours, asked)


def test_each_method_has_its_own(tmp_path: Path) -> None:
    """Plain CLM 60 steps, the fused fit 180, validated three times each."""
    done = tuned(runs_of(tmp_path, BEST), seeds=2)
    settings = {method: its[0].point.settings for method, its in done.items()}
    assert {m: [its[key] for key in specialists.LENGTH] for m, its in settings.items()} == {
        "clm": [60, 20],
        "fused": [180, 60],
    }
    assert {m: its["compare_with_clm"] for m, its in settings.items()} == {"clm": True, "fused": False}
    assert {m: [run.seed for run in its] for m, its in done.items()} == {"clm": [0, 1], "fused": [0, 1]}
    gains = specialists.compared(done, [])[specialists.FUSED].more_than_baseline
    num_bytes = len("document 0")
    assert gains["mean"].value == pytest.approx(10 * (1.7 - 2.0) / num_bytes / math.log(2), rel=1e-6)


def test_where_both_train_as_long_they_are_the_same_runs(tmp_path: Path) -> None:
    """And the same as without `--steps`, which a study of before left."""
    done = tuned(runs_of(tmp_path, {**BEST, 180: {"clm": 2.1, "fused": 1.95}}))
    assert [run.folder for run in done["clm"]] == [run.folder for run in done["fused"]]
    assert done["clm"][0].point.settings["compare_with_clm"] is True
    before = tuned(Runs(tmp_path, ROOT, None, nothing), steps=[])
    assert [run.folder for run in before["clm"]] == [run.folder for run in done["clm"]]


@pytest.mark.parametrize("steps", [181, 0])
def test_steps_of_which_the_last_would_not_be_validated_are_refused(tmp_path: Path, steps: int) -> None:
    runs = Runs(tmp_path, ROOT, None, nothing)
    point = Point("", {"trainer.max_steps": 60, "trainer.val_check_interval": 20})
    with pytest.raises(ValueError, match=rf"--steps has {steps}: a fit is validated 3 times .*give multiples of 3"):
        specialists.lengths(runs, point, [60, steps])


def nothing(program: str, overrides: Sequence[str], root: Path) -> None:
    raise AssertionError(f"started: {overrides}")
