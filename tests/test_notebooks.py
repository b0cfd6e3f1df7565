"""The notebooks run from top to bottom."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_tour_runs(tmp_path: Path) -> None:
    """Run by nbmake, in a process of its own, from an empty cache."""
    command = [sys.executable, "-m", "pytest", "--nbmake", "notebooks/01_fusion_tour.ipynb", "-o", "addopts=", "-q"]
    environment = {**os.environ, "KNOWFUSE_CACHE": str(tmp_path)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout[-3000:]
