"""Code that is compiled and kept is never run once what it took in from another file has changed."""

import importlib.util
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import pytest
from numba.core import config

import knowfuse
from knowfuse.compiled import compiled, compiled_part

CALLER = """
import constants_of_a_copy
import numpy as np
from callee_of_a_copy import Pair, called
from constants_of_a_copy import FACTOR
from knowfuse.compiled import compiled

@compiled
def between(x):
    return called(x)

@compiled
def caller(x, pair):
    return between(x) * FACTOR + constants_of_a_copy.TABLE[0] + pair.first

def run():
    return caller(1.0, Pair(0.25, 0.5))
"""
CALLEE = """
from typing import NamedTuple
from knowfuse.compiled import compiled

class Pair(NamedTuple):
    first: float
    second: float

@compiled({options})
def called(x):
    return x + 1.0
"""
CONSTANTS = "import numpy as np\nFACTOR = 10\nTABLE = np.array([100.0])\n"
FILES = {"constants": CONSTANTS, "callee": CALLEE.format(options=""), "caller": CALLER}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "CACHE_DIR", "")
    for name in FILES:
        monkeypatch.delitem(sys.modules, f"{name}_of_a_copy", raising=False)
    return tmp_path


def started(folder: Path, files: dict[str, str]) -> ModuleType:
    """The caller's module after these files are written and all are imported as by a new process."""
    module = ModuleType("none yet")
    for name, text in files.items():
        file = folder / f"{name}_of_a_copy.py"
        if not file.exists() or file.read_text() != text:  # older releases of numba go by times of files
            file.write_text(text)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[file.stem] = module = importlib.util.module_from_spec(spec)
        exec(compile(text, file, "exec"), module.__dict__)
    return module


def test_code_is_found_again_until_what_it_took_in_changes(places: Path) -> None:
    caller = started(places, FILES)
    assert caller.run() == 20.0 + 100.0 + 0.25
    assert sum(caller.caller.stats.cache_hits.values()) == 0
    again = started(places, FILES)
    assert again.run() == 120.25
    assert sum(again.caller.stats.cache_hits.values()) == 1


@pytest.mark.parametrize(
    ("name", "old", "new", "wanted"),
    [
        ("callee", "x + 1.0", "x + 2.0", 130.25),  # the same bytes of code, another constant in them
        ("callee", "x + 1.0", "x * 7.0", 170.25),
        ("constants", "FACTOR = 10", "FACTOR = 20", 140.25),
        ("constants", "[100.0]", "[200.0]", 220.25),
        ("callee", "first: float\n    second: float", "second: float\n    first: float", 120.5),
    ],
)
def test_a_change_in_another_file_is_compiled(places: Path, name: str, old: str, new: str, wanted: float) -> None:
    assert started(places, FILES).run() == 120.25
    changed = FILES[name].replace(old, new)
    assert changed != FILES[name]
    assert started(places, FILES | {name: changed}).run() == wanted


def test_a_change_in_what_is_written_into_the_caller_is_compiled(places: Path) -> None:
    inlined = CALLEE.format(options='inline="always"')
    assert started(places, FILES | {"callee": inlined}).run() == 120.25
    assert started(places, FILES | {"callee": inlined.replace("x + 1.0", "x + 2.0")}).run() == 130.25


def test_where_nothing_can_be_written_it_is_compiled_with_a_warning(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "__pycache__").write_text("a file, in which no folder can be made")
    monkeypatch.setenv("XDG_CACHE_HOME", str(places / "__pycache__"))
    with pytest.warns(UserWarning, match="set NUMBA_CACHE_DIR to a folder that can be written"):
        caller = started(places, FILES)
    assert caller.run() == 120.25


def test_all_compiled_functions_of_the_package_are_kept_so() -> None:
    (package,) = knowfuse.__path__
    own = Path(package) / "compiled.py"
    using = [file for file in Path(package).rglob("*.py") if re.search(r"\bnumba\b.*\bn?jit\b", file.read_text())]
    assert using == [own]


def test_a_part_that_python_calls_is_refused() -> None:
    """It would have no way in: numba itself ends the process."""
    part = compiled_part(lambda x: x + 1.0)
    assert compiled(lambda x: part(x) * 2.0)(1.0) == 4.0
    with pytest.raises(TypeError, match=r"<lambda> is called by compiled functions alone: make it `compiled`"):
        part(1.0)


def at_once(folder: Path, values: list[float]) -> list[tuple[float, int]]:
    """What each of these processes finds for its own value, and how often it had to compile the caller for that."""
    with ProcessPoolExecutor(len(values), get_context("fork")) as processes:
        return list(processes.map(compiled_and_called, [folder] * len(values), values))


def compiled_and_called(folder: Path, value: float) -> tuple[float, int]:
    caller = started(folder, FILES)
    time.sleep(0.2)  # until all have started
    found = caller.caller(value, sys.modules["callee_of_a_copy"].Pair(0.25, 0.5))
    return found, sum(caller.caller.stats.cache_misses.values())


def test_of_several_processes_one_compiles(places: Path) -> None:
    found = at_once(places, [1.0, 1.0, 1.0])
    assert [value for value, _ in found] == [120.25] * 3
    assert sum(misses for _, misses in found) == 1


def test_what_several_processes_compile_of_one_function_is_kept_of_each(places: Path) -> None:
    """numba reads the index, adds to it and writes it: who does so at the same time drops what others have entered."""
    assert at_once(places, [1.0, 1, True]) == [(120.25, 1)] * 3
    assert at_once(places, [1.0, 1, True]) == [(120.25, 0)] * 3
