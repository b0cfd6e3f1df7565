"""Benchmarks run in miniature, and what of their figures does not depend on the machine is what they are for."""

import json
from pathlib import Path

from experiments_for_tests import run_python

KEYS = {
    "time_vs_ce",
    "peak_memory_vs_ce",
    "time_vs_matmul_floor",
    "time_vs_dense",
    "peak_memory_vs_dense",
    "max_relative_gradient_error",
}


def test_the_loss_and_memory_that_does_not_grow_with_rows(tmp_path: Path) -> None:
    """In miniature. From 512 rows, one chunk, to 4096: cross-entropy needs eight times as much, we the hidden states' gradient."""
    size = ["--rows", "1024", "--width", "16", "--vocabulary", "16384", "--rounds", "1"]
    figures = json.loads(run_python("benchmarks/loss.py", *size, cache=tmp_path).splitlines()[-1])
    assert set(figures) >= KEYS
    assert figures["max_relative_gradient_error"] < 1e-4
    assert figures["peak_memory_vs_ce"] < 0.5, "half the rows are alive"
    one, eight = (figures["peak_megabytes"][f"{rows} x 4096"] for rows in (512, 4096))
    assert eight["ours"] < 1.3 * one["ours"]
    assert eight["cross_entropy"] > 7 * one["cross_entropy"]


def test_a_step_from_disk_to_optimizer(tmp_path: Path) -> None:
    """Three readers of traces, a fused fit and both CLM fits, through the Trainer."""
    size = ["--rounds", "1", "--steps", "1", "--texts", "3", "--width", "64", "--vocabulary", "8192"]
    figures = json.loads(run_python("benchmarks/step.py", *size, cache=tmp_path).splitlines()[-1])
    assert figures.keys() >= {"fused_step_vs_clm_step", "data_wait_share"}
    assert 0 < figures["data_wait_share"] < 1
