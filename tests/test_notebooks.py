"""The notebooks run from top to bottom; what they import is there."""

import ast
import importlib
import json
from pathlib import Path

import pytest
from commands_for_tests import ended

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_a_notebook_takes_of_ours_is_there(name: str) -> None:
    """Its cells are Python, and every name that they import from knowfuse is in its module."""
    cells = json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    lines = ["" if line.startswith(("!", "%")) else line for cell in code for line in cell.splitlines()]
    tree = ast.parse("\n".join(lines))
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("knowfuse")]
    assert imports
    for each in imports:
        module = importlib.import_module(str(each.module))
        assert not [alias.name for alias in each.names if not hasattr(module, alias.name)], each.module


@pytest.mark.long
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    """Run by nbmake, in a process of its own, from an empty cache."""
    done = ended("-m", "pytest", "--nbmake", f"notebooks/{name}", "-o", "addopts=", "-q", cache=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
