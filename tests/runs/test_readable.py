"""A file of settings that is no YAML is named with its line, without a stack."""

import shutil
from pathlib import Path

import pytest
from experiments_for_tests import ROOT

from knowfuse.runs.readable import require_readable

FAULTS = {
    "small:\n\tpath: x\n": r"line 2, column 1, is no YAML \(found character '\\t' that cannot start any token\)",
    "small: {path: x}\nsmall: {path: y}\n": r"line 2, column 1, is no YAML \(found duplicate key small\)",
    "small:\n  path: x\n   dtype: y\n": r"line 3, column 9, is no YAML \(mapping values are not allowed here\)",
    "small: {path: x\n": r"line 2, column 1, is no YAML \(expected ',' or '}'",
}


@pytest.mark.parametrize("content", FAULTS)
def test_a_file_that_is_no_yaml(tmp_path: Path, content: str) -> None:
    """Chosen alone, or as one of several; what the command does not name may be as it is."""
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf" / "sources", conf / "sources")
    (conf / "sources" / "mine.yaml").write_text(content)
    for word in ("sources=mine", "+sources=[quickstart,mine]", "sources=quickstart,mine", "sources@other=mine"):
        with pytest.raises(
            SystemExit, match=rf"^conf/sources/mine\.yaml, {FAULTS[content]}.*: indent with spaces, by as many"
        ):
            require_readable(["top_k=8", word], conf, "train")
    require_readable(["sources=quickstart", "cache=/sources/mine", "run=[a,b]"], conf, "train")
