"""llama.cpp's converter: found or asked for, run on the folder, and what it wrote is said where it fails. It is stood in for by a script."""

import json
from pathlib import Path

import pytest

from knowfuse.export.converting import CONVERTER, convert, require_converter

STAND_IN = """
import json, sys
folder, _, out, *rest = sys.argv[1:]
open(out, "w").write(json.dumps([folder, *rest]))
"""


def test_the_converter_of_path_or_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ValueError, match=rf"llama.cpp's {CONVERTER}, and it is not in PATH: git clone .* or leave gguf out"
    ):
        require_converter("q8_0", None)
    with pytest.raises(ValueError, match=r"it is not in '/not/there.py': git clone"):
        require_converter("q8_0", "/not/there.py")
    (tmp_path / CONVERTER).touch()
    assert (
        require_converter("q8_0", None) == require_converter("f16", str(tmp_path / CONVERTER)) == tmp_path / CONVERTER
    )
    with pytest.raises(ValueError, match=r"gguf is 'q4_k': choose one of \['f32', 'f16', 'bf16', 'q8_0'\]"):
        require_converter("q4_k", None)


def test_it_is_run_on_the_folder(tmp_path: Path) -> None:
    (tmp_path / CONVERTER).write_text(STAND_IN)
    convert(tmp_path / CONVERTER, tmp_path, "q8_0", "mine")
    assert json.loads((tmp_path / "mine-q8_0.gguf").read_text()) == [str(tmp_path), "--outtype", "q8_0"]


@pytest.mark.parametrize(
    ("script", "said"),
    [("import sys; sys.exit('Model Mine is not supported')", "Model Mine is not supported"), ("", "it wrote no file")],
)
def test_what_it_says_where_it_fails_is_passed_on(tmp_path: Path, script: str, said: str) -> None:
    (tmp_path / CONVERTER).write_text(script)
    with pytest.raises(ValueError, match=rf"made no GGUF file of the target \({said}\): leave gguf out"):
        convert(tmp_path / CONVERTER, tmp_path, "q8_0", "mine")
