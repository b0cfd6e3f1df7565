"""Bad inputs from the shell, and the page of them all: docs/errors.md. `python benchmarks/bad_inputs.py` runs every one."""

import shutil
from pathlib import Path

import bad_inputs  # pyright: ignore[reportMissingImports]
import pytest
from experiments_for_tests import ROOT, TINY_TRAINING, composed
from hydra import compose, initialize_config_dir

CASES = bad_inputs.cases()


def test_the_page_has_every_case_as_it_is_now() -> None:
    """A case that was changed, added or removed since asks for `python benchmarks/bad_inputs.py --page docs/errors.md`."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert page.count("```text") == len(CASES) >= 60
    for case in CASES:
        _, found, after = page.partition(f"```text\n$ {case.line}\n")
        assert found, case.line
        block, _, below = after.partition("\n```\n")
        assert " ".join(case.says.split()) in " ".join(block.split()), case.line
        assert below.startswith(f"\n{case.cause} **{case.remedy}**\n"), case.line
        assert "Traceback" not in block


def test_every_area_is_there() -> None:
    areas = ["config", "text", "conversations", "tokenizers", "sources", "store", "checkpoints", "sweeps", "evaluation"]
    areas.append("environment")
    assert list(dict.fromkeys(case.area for case in CASES)) == areas


def test_the_settings_of_its_user_are_those_of_the_tests(tmp_path: Path) -> None:
    """`conf/` is made small, wherever a setting stands in it."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    bad_inputs.small(tmp_path / "conf")
    more = ["compare_with_clm=false", "trainer.max_steps=2", "samples=0"]
    with initialize_config_dir(version_base="1.3", config_dir=str(tmp_path / "conf")):
        small = compose("train")
    assert small == composed("train", *TINY_TRAINING, *more)


@pytest.mark.parametrize("word", ["granularity=token", "--multirun lm_weight=3,4", "WORLD_SIZE=2 python train.py"])
def test_a_command_is_answered_and_leaves_nothing(tmp_path: Path, word: str) -> None:
    case = next(case for case in CASES if word in case.line)
    (tmp_path / "user").mkdir()
    shutil.copytree(ROOT / "conf", tmp_path / "user" / "conf")
    shutil.copy(ROOT / "train.py", tmp_path / "user")
    (outcome,) = bad_inputs.try_all([case], tmp_path)
    assert outcome.is_clear, outcome.message
    assert not outcome.has_traceback
    assert not outcome.changed
