"""The notebooks run from top to bottom."""

from pathlib import Path

import pytest
from commands_for_tests import ended

NOTEBOOKS = sorted(path.name for path in (Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    """Run by nbmake, in a process of its own, from an empty cache."""
    done = ended("-m", "pytest", "--nbmake", f"notebooks/{name}", "-o", "addopts=", "-q", cache=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
