"""What a user can set right is told in a paragraph, a fault of the program with its stack; `--help` lists what can be chosen."""

import errno
from pathlib import Path

import hydra
import numpy as np
import pytest
import yaml
from experiments_for_tests import ROOT, composed
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from knowfuse.commands.chosen import choices, groups, shown_choices
from knowfuse.commands.command import NO_CHARACTERS, Refused, command, refusal, require_cache
from knowfuse.runs.where import require_name

CONF = ROOT / "conf"


def raised(call: object) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()  # type: ignore[operator]
    return caught.value  # type: ignore[return-value]


def test_what_we_raise_is_for_the_user_and_what_others_raise_is_not() -> None:
    assert refusal(raised(lambda: require_name("../a"))) == str(raised(lambda: require_name("../a")))
    for name in (2024, None, True):
        assert "which is no text: give the name of a folder" in str(refusal(raised(lambda: require_name(name))))  # noqa: B023
    assert refusal(raised(lambda: np.zeros(3).reshape(2))) is None
    assert refusal(raised(lambda: {}["missing"])) is None


def test_a_refusal_inside_a_setting_is_told_without_the_names_of_our_functions() -> None:
    told = refusal(raised(lambda: hydra.utils.instantiate(composed("train", "+sources.mpt.pth=a"), _convert_="all")))
    assert told == "there is no setting sources.mpt.pth: did you mean sources.mpt.path?"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG])
def test_a_place_where_nothing_can_be_written(number: int) -> None:
    """Whoever raises it; the file and the remedy are named."""
    told = refusal(OSError(number, "No", "there/a"))
    assert told is not None
    assert told.startswith("'there/a': no. Caches are in the folder cache=, or KNOWFUSE_CACHE")


@pytest.mark.parametrize("cache", ["", "s3://bucket/cache"])
def test_a_cache_is_a_folder_of_this_machine(cache: str) -> None:
    with pytest.raises(ValueError, match="cache is "):
        require_cache(OmegaConf.create({"cache": cache}))
    require_cache(OmegaConf.create({"cache": "~/.cache/knowfuse"}))


def test_a_name_that_this_locale_cannot_say() -> None:
    """As Python has it where the locale is not UTF-8, and a library that wants UTF-8 refuses it."""
    error = raised(lambda: "d/t\udcc3\udcabxt".encode())
    assert refusal(error) == NO_CHARACTERS
    assert "PYTHONUTF8=1" in NO_CHARACTERS


def test_the_function_refuses_as_hydra_prints_without_a_stack(tmp_path: Path) -> None:
    """Refused is what Hydra prints alone, and a ValueError for who calls the function with a configuration."""
    assert issubclass(Refused, CompactHydraException)
    assert issubclass(Refused, ValueError)

    @command("train", CONF)
    def main(cfg: object) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"^no$"):
        main(OmegaConf.create({"cache": "there"}))


def test_help_lists_every_choice_with_a_line() -> None:
    said = {(choice.group, choice.name): choice.says for choice in choices(CONF, "train")}
    assert {group for group, _ in said} == {*groups(CONF, "train")} >= {"alignment", "fusion", "trainer", "debug"}
    assert all(len(says) > 8 for says in said.values()), said
    shown = shown_choices(CONF, "train")
    assert all(f" {name} " in shown and says in shown for (_, name), says in said.items())
    defaults = [(c.group, c.name) for c in choices(CONF, "train") if c.is_default]
    assert ("alignment", "byte_exact") in defaults
    assert len(defaults) == sum(default is not None for default in groups(CONF, "train").values())
    assert groups(CONF, "plan").keys() == groups(CONF, "train").keys()


@pytest.mark.parametrize("name", ["evaluate", "prepare", "probe", "plan", "export", "align_report"])
def test_every_command_has_its_help(name: str) -> None:
    assert "SETTING=VALUE" in shown_choices(CONF, name)


def test_debugging_presets_say_what_they_change() -> None:
    """`fast` goes through every stage, `overfit` learns a little text by heart, `profile` writes where time goes."""
    fast, overfit, profile = (composed("train", f"debug={name}") for name in ("fast", "overfit", "profile"))
    assert fast.debug is overfit.debug is profile.debug is None, "self alone is another way to run"
    assert (fast.trainer.max_steps, fast.trainer.val_check_interval) == (2, 1)
    assert (overfit.schedule, overfit.weight_decay) == ("constant", 0.0)
    assert yaml.safe_load(OmegaConf.to_yaml(profile.trainer.profiler))["filename"] == "profile"
    for cfg in (fast, overfit, profile):
        hydra.utils.instantiate(cfg, _convert_="all").require_machine()
