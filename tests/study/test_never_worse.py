"""The study of a default that loses nothing, made small; its runs are left as train.py leaves them."""

from collections.abc import Sequence
from pathlib import Path

import never_worse
import pytest
from experiments_for_tests import ROOT
from runs_for_tests import left_by_train

from knowfuse.study import Runs, read_lines


def test_every_method_is_held_against_plain_clm_at_its_place(tmp_path: Path) -> None:
    """Which is trained once at each; the fits of one place are ahead of it or not at its first two validations."""
    started: list[dict[str, str]] = []

    def start(program: str, overrides: Sequence[str], root: Path) -> None:
        settings = dict(override.split("=", 1) for override in overrides)
        started.append(settings)
        fused = 1.5 if "loss.gate" in settings else 0.5
        best = {"fused": fused, **({"clm": 1.0} if settings["compare_with_clm"] == "true" else {})}
        nats = {f"target {method}": [bits] * 8 for method, bits in best.items()}
        left_by_train(Path(settings["hydra.run.dir"].strip("'\"")), nats, best)

    asked = never_worse.arguments(["--places", "0", "2", "--results", str(tmp_path)])
    found = never_worse.study(Runs(tmp_path / "runs", ROOT, None, start), asked)
    _, lines = read_lines(tmp_path / "never_worse.csv")
    assert [line["method"] for line in lines] == 2 * ["plain CLM", *(method.name for method in never_worse.METHODS)]
    assert [settings["compare_with_clm"] for settings in started] == 2 * ["true", "false", "false", "false"]
    assert {line["ahead"] for line in lines} == {None, 0.0, 1.0}
    for line in lines:
        is_gated = "gate" in str(line["method"])
        want = 0.0 if line["method"] == "plain CLM" else 0.5 if is_gated else -0.5
        assert line["more_validation"] == pytest.approx(want)
        assert (float(line["more"] or 0) > 0) == is_gated
        assert len(str(line["validations"]).split()) == 3
    assert {name for name, more in found.items() if more > 0} == {"headroom, gate=better", "constant, gate=better"}
