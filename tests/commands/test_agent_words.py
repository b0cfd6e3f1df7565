"""What a W&B agent says of a sweep's parameters is what the sweep's author meant."""

from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from experiments_for_tests import ROOT, composed
from hydra.errors import HydraException
from omegaconf import OmegaConf

from knowfuse.commands.agent_words import in_hydras_words

IN_A_SWEEP = {"WANDB_SWEEP_ID": "sweep"}


def said(**parameters: Any) -> list[str]:
    """By wandb's own agent, whose import takes seconds."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    values = {name.replace("__", "."): {"value": value} for name, value in parameters.items()}
    return create_sweep_command_args({"args": values})["args_no_hyphens"]


def test_a_null_is_one() -> None:
    """For every kind of setting that may be null; Hydra would take the text `None`."""
    names = ["tracing__place", "lm_weight_end", "clm_learning_rates", "router_loss", "ckpt_path"]
    words = said(**dict.fromkeys(names))
    assert composed("train", *words).tracing.place == "None"
    cfg = composed("train", *in_hydras_words(words, IN_A_SWEEP))
    assert [OmegaConf.select(cfg, name.replace("__", ".")) for name in names] == [None] * len(names)


def test_nested_parameters_are_settings_of_their_own() -> None:
    nested = {"granularity": "token", "unit": "byte"}
    words = said(fusion=nested, trainer={"max_steps": 7, "gradient_clip_val": None}, learning_rates=[1e-4, 2e-3])
    with pytest.raises(HydraException):
        composed("train", *words)
    cfg = composed("train", *in_hydras_words(words, IN_A_SWEEP))
    assert (cfg.fusion.granularity, cfg.fusion.unit) == ("token", "byte")
    assert (cfg.trainer.max_steps, cfg.trainer.gradient_clip_val) == (7, None)
    assert cfg.learning_rates == [1e-4, 2e-3]
    words = said(corpus__files={"mine": ["a b.txt", "c.txt"]}, trainer={"strategy": {"compute_dtype": "float32"}})
    cfg = composed("train", "data=text_files", "trainer=fsdp", *in_hydras_words(words, IN_A_SWEEP))
    assert cfg.corpus.files == {"mine": ["a b.txt", "c.txt"]}
    assert (cfg.trainer.strategy.compute_dtype, "_target_" in cfg.trainer.strategy) == ("float32", True)


def test_other_values_are_as_they_were() -> None:
    """Numbers, words, Hydra's own lists and dictionaries, and what is no setting."""
    mine = ["lm_weight=0.30", "fusion=min_ce", "learning_rates=[1e-3,x]", "corpus.files={mine: [a.txt]}", "--multirun"]
    mine += ["compare_with_clm=false", "x", "+a='None'", "cache=/tmp/None"]
    assert in_hydras_words(mine, IN_A_SWEEP) == mine
    assert in_hydras_words(said(compare_with_clm=False), IN_A_SWEEP) == ["compare_with_clm=false"]
    assert in_hydras_words(["a.d={'b c': 1}"], IN_A_SWEEP) == ["a.d={'b c': 1}"]
    assert in_hydras_words(["tracing.place=None"], {}) == ["tracing.place=None"], "no sweep: whoever typed it meant it"


def values_of(parameter: dict[str, Any]) -> list[Any]:
    if "parameters" in parameter:
        return [{name: values_of(inner)[-1] for name, inner in parameter["parameters"].items()}]
    return parameter.get("values") or [parameter["min"], parameter["max"]]


OF_WANDB = [path for path in sorted((ROOT / "conf" / "sweep").glob("*.yaml")) if "program:" in path.read_text()]


@pytest.mark.parametrize("path", OF_WANDB, ids=lambda path: path.stem)
def test_every_value_of_our_sweeps_is_a_run(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    given = [argument for argument in sweep["command"] if "=" in argument]
    for name, parameter in sweep["parameters"].items():
        for value in values_of(parameter):
            words = in_hydras_words([*given, *said(**{name: value})], IN_A_SWEEP)
            hydra.utils.instantiate(composed("train", *words), _convert_="all")
