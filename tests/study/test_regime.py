"""The study of where fusing pays, made small: its places, lines and picture; its runs are left as train.py leaves them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import regime
from experiments_for_tests import ROOT, TINY_TRAINING
from runs_for_tests import left_by_train

from knowfuse.study import Runs, read_lines


def settings_of(overrides: Sequence[str]) -> dict[str, str]:
    return dict(override.split("=", 1) for override in overrides)


def test_the_places_of_the_study_and_what_came_out(tiny_cache: Path, tmp_path: Path) -> None:
    """On half of the text fusing gains by 0.1, on all of it CLM by as much; the rule goes by where CLM and the oracle are."""
    started: list[dict[str, str]] = []

    def start(*asked: Any) -> None:
        (settings,) = [settings_of(part) for part in asked if isinstance(part, list)]
        started.append(settings)
        is_half = settings["fusion_share"] == "0.5"
        best = {"clm": 9.0, "fused": 8.9} if is_half else {"clm": 1.0, "fused": 1.1}
        nats = {f"target {method}": [bits] * 8 for method, bits in best.items()}
        left_by_train(Path(settings["hydra.run.dir"].strip("'\"")), nats, best)

    line = ["--shares", "1", "0.5", "--passes", "1", "2", "50", "--most-steps", "400", "--results", str(tmp_path)]
    asked = regime.arguments([*line, "--name", "small", "--", *TINY_TRAINING])
    figures = regime.study(Runs(tmp_path / "runs", ROOT, tiny_cache, start), asked)
    heading, lines = read_lines(tmp_path / "small.csv")
    assert heading[0].startswith(
        "`python benchmarks/regime.py --shares 1 0.5 --passes 1 2 50 --most-steps 400 --name small -- corpus."
    )
    assert (tmp_path / "small.png").stat().st_size > 10_000
    steps = [int(settings["trainer.max_steps"]) for settings in started]
    assert steps == sorted(steps) == [row["steps"] for row in lines], "the short ones first; fifty passes are left out"
    assert [int(s["trainer.val_check_interval"]) for s in started] == [n // 6 for n in steps]
    halves = [row for row, settings in zip(lines, started, strict=True) if settings["fusion_share"] == "0.5"]
    assert {row["passes"] for row in halves} == {1, 2}
    assert len({row["fresh_tokens"] for row in halves}) == 1
    whole = next(row["fresh_tokens"] for row in lines if row not in halves)
    assert halves[0]["fresh_tokens"] == pytest.approx(whole / 2, rel=0.2)
    assert all(row["gain_validation"] == pytest.approx(0.1 if row in halves else -0.1) for row in lines)
    assert all(row["ahead_of_clm_to_its_best"] == (1.0 if row in halves else 0.0) for row in lines)
    assert figures == {
        "places": 4,
        "rule_right": 4,
        "worst_gain": pytest.approx(min(row["gain_test"] for row in lines), abs=1e-4),
    }
