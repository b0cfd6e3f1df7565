"""A command with a word that Hydra cannot read, or does not know, is answered by the one that was meant."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from experiments_for_tests import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException

from knowfuse.commands.words import answer, unknown_setting, unknown_target

CONF = ROOT / "conf"


@pytest.fixture(autouse=True)
def started_by_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)


def meant(*words: str) -> list[str]:
    """The words that are proposed; none where none is."""
    said = answer(["train.py", *words], CONF, "train", None)
    return shlex.split(said.partition("Did you mean: ")[2])[2:]


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        (["lm_wieght=0.5", "fusoin=min_ce"], ["lm_weight=0.5", "fusion=min_ce"]),
        (["max_steps=3"], ["trainer.max_steps=3"]),
        (["target.recipe.max_steps=3"], ["sources.llama2.recipe.max_steps=3"]),
        (["fusion.temperture=1", "fusion=avg_ce"], ["fusion.temperature=1", "fusion=avg_ce"]),
        (["fusion=avgce"], ["fusion=avg_ce"]),
        (["--lm_weight=0.5"], ["lm_weight=0.5"]),
        (["fusion=min_ce,avg_ce"], ["--multirun", "fusion=min_ce,avg_ce"]),
        (["ckpt_path=outputs/a=1/last.ckpt"], ['ckpt_path="outputs/a=1/last.ckpt"']),
        (["ckpt_path=a,b.ckpt"], ['ckpt_path="a,b.ckpt"']),
        (
            ["data=text_files", "corpus.files={w: [notes (1).txt, b]}"],
            ["data=text_files", 'corpus.files={w: ["notes (1).txt", b]}'],
        ),
    ],
)
def test_the_command_that_was_meant(typed: list[str], right: list[str]) -> None:
    assert meant(*typed) == right
    OverridesParser.create().parse_overrides([word for word in right if word != "--multirun"])


def test_a_folder_alone_is_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python -m knowfuse.report` takes it; of a command that asks for none, and what is not there, it is nothing."""
    monkeypatch.chdir(tmp_path)
    Path("outputs/a").mkdir(parents=True)
    said = answer(["evaluate.py", "outputs/a", "split=validation"], CONF, "evaluate", None)
    assert shlex.split(said.partition("Did you mean: ")[2])[2:] == ["run=outputs/a", "split=validation"]
    assert answer(["evaluate.py", "outputs/b"], CONF, "evaluate", None) == ""
    assert meant("outputs/a") == []


@pytest.mark.parametrize(
    "words",
    [
        ["fusion=maximum"],
        ["lm_weight=0.5"],
        ["nothing_like_it=1"],
        ["target.path=llm"],
        ["data=text_files", "corpus.fusion_bytes=1"],
        ["--multirun", "lm_weight=0.1,0.5"],
    ],
)
def test_nothing_is_proposed_where_nothing_is_near(words: list[str]) -> None:
    assert meant(*words) == []


def test_a_plugin_that_is_missing_and_a_folder_without_settings() -> None:
    missing = MissingConfigException("Could not find 'hydra/sweeper/optuna'")
    assert "pip install hydra-optuna-sweeper" in answer(["train.py", "hydra/sweeper=optuna"], CONF, "train", missing)
    assert "run it where train.py is" in answer(["train.py"], CONF / "conf", "train", None)


def test_a_setting_that_an_object_does_not_take() -> None:
    message = "Error in call to target 'knowfuse.types.LLMSpec':\nTypeError(\"LLMSpec.__init__() got an unexpected keyword argument 'pth'\")\nfull_key: target"
    assert unknown_setting(message) == "there is no setting target.pth: did you mean target.path?"
    assert unknown_setting(message.replace("'pth'", "'path'")) is None, "some other function was given it"
    assert unknown_setting("Error in call to target 'knowfuse.types.LLMSpec':\nTypeError('no')") is None


def test_a_setting_that_the_root_does_not_take() -> None:
    message = "Error in call to target 'knowfuse.runs.experiment.Experiment':\nTypeError(\"got an unexpected keyword argument 'lm_wieght'\")"
    assert unknown_setting(message) == "there is no setting lm_wieght: did you mean lm_weight?"
    nothing_like_it = unknown_setting(message.replace("lm_wieght", "x"))
    assert nothing_like_it == "there is no setting x: --cfg job prints all that there are"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("knowfuse.types.LLMSpc", "did you mean knowfuse.types.LLMSpec?"),
        ("knowfuse.fusoin.min_ce", "did you mean knowfuse.fusion.min_ce?"),
        ("trch.optim.AdamW", "did you mean torch.optim.AdamW?"),
        (
            "torch.optim.nothing_like_it",
            "which cannot be imported (the reason): correct its name, or install its package",
        ),
        ("lion.Lion", "which cannot be imported (the reason): correct its name, or install its package"),
        ("nowhere.at.all", "which cannot be imported (the reason): correct its name, or install its package"),
    ],
)
def test_a_target_that_is_not_there(target: str, said: str) -> None:
    message = (
        f"Error locating target '{target}', set env var HYDRA_FULL_ERROR=1 to see chained exception.\nfull_key: target"
    )
    told = unknown_target(message, ImportError("the\nreason"))
    assert told is not None
    assert told.startswith(f"target._target_ is {target}, ")
    assert told.endswith(said)
    assert unknown_target("Error in call to target 'knowfuse.types.LLMSpec':\nTypeError('no')", None) is None


def test_nothing_is_proposed_of_choices_that_do_not_go_together(tmp_path: Path) -> None:
    """What Hydra cannot compose it has refused by then: composing it again is no second error."""
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nsources: [a]\n")
    said = answer(["train.py", "experiment=mine", "--lm_weight=1"], tmp_path / "conf", "train", None)
    assert said == "\nDid you mean: python train.py experiment=mine lm_weight=1\n"


@pytest.mark.parametrize(
    ("typed", "files", "right"),
    [
        (
            ["target=gpt2", "top_k=8"],
            {"target/gpt2.yaml": "# @package _global_\ntarget: {_target_: knowfuse.types.LLMSpec, path: gpt2}\n"},
            ["target=gpt2", "top_k=8"],
        ),
        (
            ["sources=[org/gpt2,/models/q 2.5]"],
            {
                "sources/gpt2-q_2_5.yaml": "gpt2: {_target_: knowfuse.types.LLMSpec, path: org/gpt2}\n"
                'q_2_5: {_target_: knowfuse.types.LLMSpec, path: "/models/q 2.5"}\n',
                "target/gpt2.yaml": "# @package _global_\ntarget: ${sources.gpt2}\n",
            },
            ["sources=gpt2-q_2_5", "target=gpt2"],
        ),
        (
            ["sources=org/gpt2", "target=llama2_7b"],
            {"sources/gpt2.yaml": "gpt2: {_target_: knowfuse.types.LLMSpec, path: org/gpt2}\n"},
            ["sources=gpt2", "target=llama2_7b"],
        ),
        (["data=my text.txt"], {}, ["data=text_files", 'corpus.files={mine: ["my text.txt"]}']),
        (["data=org/texts"], {}, ["data=mixture", "corpus.datasets={mine: {path: org/texts}}"]),
    ],
)
def test_an_llm_or_a_text_where_a_choice_is_wanted(
    typed: list[str], files: dict[str, str], right: list[str], tmp_path: Path
) -> None:
    """The lines that are printed write the files of its group, and the command that they end with composes."""
    *writing, again = answer(["train.py", *typed], CONF, "train", MissingConfigException("", "")).splitlines()[2:]
    shutil.copytree(CONF, tmp_path / "conf")
    for line in writing:
        subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    assert {name: (tmp_path / "conf" / name).read_text() for name in files} == files
    assert len(writing) == len(files)
    assert shlex.split(again) == ["python", "train.py", *right]
    with initialize_config_dir(version_base="1.3", config_dir=str(tmp_path / "conf")):
        cfg = compose("train", right)
    assert cfg.target._target_ == "knowfuse.types.LLMSpec"


def test_a_choice_that_is_nearly_one_is_no_llm() -> None:
    said = answer(["train.py", "target=quikstart", "fusion=x"], CONF, "train", MissingConfigException("", ""))
    assert said == "\nDid you mean: python train.py target=quickstart fusion=x\n"
