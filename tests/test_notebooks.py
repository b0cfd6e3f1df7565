"""The notebooks run from top to bottom."""

from pathlib import Path

from commands_for_tests import ended


def test_the_tour_runs(tmp_path: Path) -> None:
    """Run by nbmake, in a process of its own, from an empty cache."""
    done = ended("-m", "pytest", "--nbmake", "notebooks/01_fusion_tour.ipynb", "-o", "addopts=", "-q", cache=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
