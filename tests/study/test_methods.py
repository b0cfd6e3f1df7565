"""`benchmarks/methods.py`: what is crossed with what."""

from pathlib import Path

import methods
import pytest
from commands_for_tests import ROOT

from knowfuse.study import Point, Runs, grid


def test_what_train_py_refuses_is_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ranks have no bytes; the alignment alone, and the option alone, may both have been the best of their round."""
    alignments = [Point(name, {"alignment": name}) for name in ("hybrid", "byte_exact")]
    options = [Point("set", {"loss.completion": "set"}), Point("")]
    left = methods.possible(Runs(tmp_path, ROOT), grid(alignments, options))
    assert [point.name for point in left] == ["hybrid", "byte_exact, set", "byte_exact"]
    assert "hybrid, set: left out, loss.completion=set needs the bytes of tokens" in " ".join(
        capsys.readouterr().out.split()
    )
