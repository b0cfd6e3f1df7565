"""The table and the picture of a sweep name every point, also one that failed."""

import csv
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from knowfuse.report.swept import Swept


def end(sweep: Path, point: int, result: float | Exception, mode: RunMode = RunMode.MULTIRUN, **settings: Any) -> None:
    """A point ends as Hydra tells its callbacks."""
    failed = isinstance(result, Exception)
    given = [f"{key}={value}" for key, value in settings.items()]
    its = {"sweep": {"dir": str(sweep), "subdir": str(point)}, "mode": mode.name, "overrides": {"task": given}}
    ended = JobReturn(_return_value=result, status=JobStatus.FAILED if failed else JobStatus.COMPLETED)
    Swept().on_job_end(OmegaConf.create({"hydra": {**its, "mode": mode}}), ended)


def test_every_point_is_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of their numbers, by what varies; one that is not of a sweep is in none."""
    end(tmp_path, 10, 2.5, fusion="min_ce", lm_weight=0.3, top_k=10)
    end(tmp_path, 2, ValueError("no good"), fusion="min_ce", lm_weight=7, top_k=10)
    end(tmp_path, 0, 2.7, fusion="avg_ce", lm_weight=0.3, top_k=10)
    assert f"point 2 of sweep {tmp_path} failed: ValueError: no good" in " ".join(capsys.readouterr().out.split())
    end(tmp_path, 11, 2.0, RunMode.RUN)
    with (tmp_path / "sweep.csv").open(newline="") as table:
        assert list(csv.reader(table)) == [
            ["point", "fusion", "lm_weight", "bits_per_byte", "failed"],
            ["0", "avg_ce", "0.3", "2.7", ""],
            ["2", "min_ce", "7", "", "ValueError: no good"],
            ["10", "min_ce", "0.3", "2.5", ""],
        ]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    Swept().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert "best is point 10, 2.500 bits/byte" in " ".join(capsys.readouterr().out.split())
