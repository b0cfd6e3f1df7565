"""Every choice of the configuration composes, and builds what it names."""

import ast
import itertools
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import pytest
import torch
import wandb
import yaml
from experiments_for_tests import ROOT, composed
from omegaconf import OmegaConf
from tokenizers_for_tests import surface

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.llms.sharding import FSDP2
from knowfuse.runs.experiment import Experiment
from knowfuse.text.document import Document
from knowfuse.training.trainers import require_devices
from knowfuse.types import Aligner, LLMSpec

CONF = ROOT / "conf"
GROUPS = [
    "target",
    "sources",
    "data",
    "alignment",
    "fusion",
    "finetune",
    "optimizer",
    "trainer",
    "logger",
    "experiment",
    "debug",
]
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
NEEDED = {  # what a choice leaves to the user
    "static": ["fusion.weights={llama2: 0.2, mpt: 0.3, openllama: 0.5}"],
    "small_llms": ["target=llama2_7b"],
    "fusechat_7b": ["target=openchat_7b"],
    "openchat_7b": ["sources=fusechat_7b"],
    **{
        key: ["corpus.files={mine: [mine.txt]}"]
        for key in ("text_files", "chat", "regime", "specialists", "specialists_135m")
    },
    "mixture": ["corpus.datasets={math: {path: openai/gsm8k, name: main, text_field: [question, answer]}}"],
}


def built(*overrides: str) -> Experiment:
    return hydra.utils.instantiate(composed("train", *overrides), _convert_="all")


@pytest.mark.parametrize("program", ["train", "evaluate", "align_report"])
def test_a_program_with_a_folder_refuses_one_without_room_and_leaves_nothing(program: str) -> None:
    callbacks = yaml.safe_load((CONF / f"{program}.yaml").read_text())["hydra"]["callbacks"]
    for name in ("Writable", "NothingLeft"):
        assert name in {callback["_target_"].rsplit(".", 1)[-1] for callback in callbacks.values()}


def test_every_folder_is_a_group_we_know() -> None:
    """`sweep` is read by wandb, `llm_configs` by the plan, the others by Hydra; a group has two living choices, or `+` before it."""
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == {
        *GROUPS,
        "evaluation",
        "scale",
        "sweep",
        "llm_configs",
    }
    assert {path.name for path in CONF.glob("*.yaml")} == {
        "train.yaml",
        "evaluate.yaml",
        "prepare.yaml",
        "align_report.yaml",
        "plan.yaml",
        "probe.yaml",
        "export.yaml",
        "rollouts.yaml",
        "rounds.yaml",
        "merge.yaml",
        "tracing.yaml",
    }


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_builds_an_experiment(group: str, choice: str) -> None:
    """With every setting as the plain Python object that the code below takes."""
    experiment = built(f"{group}={choice}", *NEEDED.get(choice, []))
    assert isinstance(experiment, Experiment)
    assert isinstance(experiment.target, LLMSpec)
    assert experiment.sources
    assert all(isinstance(spec, LLMSpec) for spec in experiment.sources.values())
    for setting in ("corpus", "alignment", "fusion", "finetune", "loss", "optimizer", "trainer", "logger"):
        assert isinstance(getattr(experiment, setting), partial), setting
    assert not [name for name, value in vars(experiment).items() if OmegaConf.is_config(value)]


@pytest.mark.parametrize("overrides", [[], ["experiment=fusellm_7b"], ["target=llama2_7b", "sources=fusellm_7b"]])
def test_the_papers_target_is_a_copy_of_a_source(overrides: list[str]) -> None:
    """So that it is read once."""
    experiment = built(*overrides)
    assert experiment.target == experiment.sources["llama2"]


@pytest.mark.parametrize(("group", "choice"), [c for c in CHOICES if c[0] in ("target", "sources", "data")])
def test_every_choice_prepares(group: str, choice: str) -> None:
    cfg = composed("prepare", f"{group}={choice}", *NEEDED.get(choice, []))
    settings = hydra.utils.instantiate(cfg, _convert_="all")
    assert {"target", "sources", "corpus", "top_k", "cache"} <= settings.keys()


def test_preparing_and_training_agree() -> None:
    """The same keys have the same values: traces that one makes are those that the other looks for."""
    prepare, train = (OmegaConf.to_container(composed(name), resolve=True) for name in ("prepare", "train"))
    assert isinstance(prepare, dict)
    assert isinstance(train, dict)
    assert {key: train[key] for key in prepare} == prepare


@pytest.mark.parametrize("choice", [choice for group, choice in CHOICES if group == "alignment"])
def test_every_alignment_pairs_two_tokenizers(choice: str) -> None:
    pair = TokenizerPair(surface("neox"), surface("llama"), [Document("the text to fuse on", "text", "fusion")])
    aligner = built(f"alignment={choice}").alignment(pair)
    assert isinstance(aligner, Aligner)


def test_the_default_trainer_is_built() -> None:
    trainer = built("trainer.max_steps=70").trainer(logger=False)
    assert isinstance(trainer, L.Trainer)
    assert trainer.max_steps == 70
    assert trainer.gradient_clip_val == 1.0
    assert trainer.check_val_every_n_epoch is None


@pytest.mark.parametrize("choice", [choice for group, choice in CHOICES if group == "trainer"])
def test_every_trainer_takes_its_settings(choice: str) -> None:
    """By their names; a GPU is not needed to know them."""
    settings = built(f"trainer={choice}").trainer.keywords  # type: ignore[attr-defined]
    known = L.Trainer.__init__.__wrapped__.__code__.co_varnames  # type: ignore[attr-defined]
    assert set(settings) <= set(known)
    assert settings["accelerator"] == ("cpu" if choice == "cpu" else "gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would have what is asked for")
@pytest.mark.parametrize("choice", ["gpu", "ddp", "fsdp"])
def test_devices_that_do_not_exist_are_refused(choice: str) -> None:
    """What was asked for, what there is, and what to set; `train.py` asks before it prepares anything."""
    message = (
        r"cannot give trainer\.accelerator=gpu.*: it has 0 GPUs and \d+ CPU cores; set trainer=cpu, or trainer\.acc"
    )
    with pytest.raises(ValueError, match=message):
        require_devices(built(f"trainer={choice}").trainer)
    here = [f"trainer={choice}", "trainer.accelerator=cpu", "trainer.devices=1"]
    trainer = built(*here).trainer
    for _ in range(2):  # a strategy serves one Trainer, and this is not the one that fits
        require_devices(trainer)


def test_no_devices_at_all_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"cannot give trainer\.accelerator=cpu, trainer\.devices=0.* \(.*not a valid input"
    ):
        require_devices(built("trainer.devices=0").trainer)


def test_more_processes_than_the_machine_has_cores_are_refused_before_they_start() -> None:
    with pytest.raises(
        ValueError, match=r"trainer\.devices is 400, and on the CPU .* set trainer\.devices to at most \d+"
    ):
        require_devices(built("trainer.devices=400").trainer)
    require_devices(built("trainer.devices=4").trainer)


def test_a_compute_dtype_that_is_none_is_refused() -> None:
    with pytest.raises(Exception, match=r"compute_dtype(.|\n)*float16(.|\n)*float32"):
        built("trainer=fsdp", "trainer.strategy.compute_dtype=float16")


# ---- loggers ----------------------------------------------------------------------------------------------------

HYPERPARAMETERS: dict[str, Any] = {
    "lm_weight": 0.3,
    "fusion": {"unit": "byte"},
    "learning_rates": [0.002],
    "none": None,
}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()


@pytest.mark.parametrize("choice", [choice for group, choice in CHOICES if group == "logger"])
def test_every_logger_keeps_metrics_and_plain_hyperparameters(choice: str, tmp_path: Path, offline: None) -> None:
    """Through `Experiment.logger` as a fit uses it, read back from the files."""
    experiment = built(f"logger={choice}")
    logger = experiment.logger(save_dir=str(tmp_path), prefix="fit")
    logger.log_hyperparams(HYPERPARAMETERS)
    logger.log_metrics({"train/loss_nats": 2.5}, step=3)
    logger.save()
    if choice == "wandb":
        config = logger.experiment.config  # type: ignore[attr-defined]
        assert {key: config[key] for key in HYPERPARAMETERS} == HYPERPARAMETERS
        logger.experiment.finish()  # type: ignore[attr-defined]
        wandb.teardown()  # waits for the process that writes the file
        (file,) = tmp_path.rglob("*.wandb")
        content = file.read_bytes()
        assert b"fit-train/loss_nats" in content
        assert b"lm_weight" in content
        return
    logger.finalize("success")
    if choice == "csv":
        (file,) = tmp_path.rglob("metrics.csv")
        assert file.read_text().split() == ["fit-train/loss_nats,step", "2.5,3"]
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (file,) = [path for path in tmp_path.rglob("events.*") if "hp_metric" not in path.name][:1]
        events = EventAccumulator(str(file.parent)).Reload()
        (scalar,) = events.Scalars("fit-train/loss_nats")
        assert (scalar.step, scalar.value) == (3, 2.5)
    (file,) = tmp_path.rglob("hparams.yaml")
    assert yaml.safe_load(file.read_text()) == HYPERPARAMETERS


# ---- what messages recommend ------------------------------------------------------------------------------------

TRAINERS = sorted(path.stem for path in (CONF / "trainer").glob("*.yaml"))


def recommended() -> set[str]:
    """Every `trainer...=value` in a string of the program or of the pages, where the value is given."""
    pages = [ROOT / "README.md", *(ROOT / "docs" / "guides").glob("*.md")]
    strings = [page.read_text(encoding="utf-8") for page in pages]
    for path in [ROOT / "train.py", ROOT / "evaluate.py", *(ROOT / "src").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                strings.append(ast.unparse(node))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.append(node.value)
    return {found.rstrip(".") for text in strings for found in re.findall(r"\btrainer(?:\.\w+)*=[\w.-]+", text)}


def test_the_strings_are_searched() -> None:
    assert {"trainer=fsdp", "trainer.precision=bf16-mixed", "trainer.strategy.compute_dtype=bfloat16"} <= recommended()


@pytest.mark.parametrize("override", sorted(recommended()))
def test_what_a_message_recommends_is_a_setting(override: str) -> None:
    """Of every trainer, without `+`; settings of FSDP2 itself are those of `trainer=fsdp`."""
    if override.startswith("trainer="):
        assert override.partition("=")[2] in TRAINERS
        return
    for choice in ["fsdp"] if override.startswith("trainer.strategy.") else TRAINERS:
        key, _, value = override.partition("=")
        assert str(OmegaConf.select(composed("train", f"trainer={choice}", override), key)).lower() == value


# ---- the paper's own experiment ---------------------------------------------------------------------------------


def test_fusellm_7b_is_the_papers() -> None:
    """FuseLLM, arXiv 2401.10491, section 4.1, as the issue quotes it."""
    experiment = built("experiment=fusellm_7b")
    assert experiment.target.path == "meta-llama/Llama-2-7b-hf"
    assert sorted(str(spec.path) for spec in experiment.sources.values()) == [
        "meta-llama/Llama-2-7b-hf",
        "mosaicml/mpt-7b",
        "openlm-research/open_llama_7b_v2",
    ]
    assert {spec.dtype for spec in experiment.sources.values()} == {"bfloat16"}
    assert experiment.corpus.keywords["path"] == "JeanKaddour/minipile"  # type: ignore[attr-defined]
    assert experiment.block_tokens == 2048
    settings = experiment.trainer.keywords  # type: ignore[attr-defined]
    assert 8 * experiment.batch_blocks * settings["accumulate_grad_batches"] == 128  # 8 GPUs
    assert settings["val_check_interval"] % settings["accumulate_grad_batches"] == 0
    assert settings["precision"] == "32-true", "float32 shards: AdamW at 1e-5 would lose its steps in bfloat16"
    assert settings["gradient_clip_val"] == 1.0
    assert isinstance(settings["strategy"], FSDP2)
    assert settings["strategy"].compute_dtype == "bfloat16"
    assert experiment.warmup_steps / settings["max_steps"] == pytest.approx(0.008, rel=0.01)
    assert experiment.schedule == "cosine"
    assert experiment.learning_rates == [1e-5]
    assert experiment.weight_decay == 0.1
    assert experiment.lm_weight == 0.9
    assert experiment.top_k == 10
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = experiment.optimizer([weight], lr=1e-5)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert tuple(optimizer.defaults["betas"]) == (0.9, 0.95)


def test_fusechat_7b_is_the_papers() -> None:
    """FuseChat, arXiv 2402.16107, and the commands of its repository."""
    experiment = built("experiment=fusechat_7b")
    assert experiment.target == experiment.sources["openchat"]
    assert [spec.path for spec in experiment.sources.values()] == [
        "openchat/openchat_3.5",
        "NousResearch/Nous-Hermes-2-Mixtral-8x7B-DPO",
        "NousResearch/Nous-Hermes-2-SOLAR-10.7B",
    ]
    corpus = experiment.corpus.keywords  # type: ignore[attr-defined]
    assert (corpus["datasets"]["mixture"]["path"], corpus["learn"]) == ("FuseAI/FuseChat-Mixture", "assistant")
    assert experiment.pairwise is not None
    assert experiment.pairwise.method == "sce"
    assert (experiment.learning_rates, experiment.schedule, experiment.weight_decay) == ([5e-6], "cosine", 0.0)
    assert (experiment.lm_weight, experiment.top_k, experiment.block_tokens) == (0.9, 10, 2048)
    settings = experiment.trainer.keywords  # type: ignore[attr-defined]
    assert experiment.warmup_steps / settings["max_steps"] == pytest.approx(0.03, rel=0.01)
    assert settings["val_check_interval"] % settings["accumulate_grad_batches"] == 0
    assert settings["precision"] == "32-true", "float32 shards: AdamW at 5e-6 would lose its steps in bfloat16"
    optimizer = experiment.optimizer([torch.nn.Parameter(torch.zeros(2, 2))], lr=5e-6)
    assert tuple(optimizer.defaults["betas"]) == (0.9, 0.999)


# ---- sweeps -----------------------------------------------------------------------------------------------------


def sweep() -> dict[str, Any]:
    return yaml.safe_load((CONF / "sweep" / "fusion.yaml").read_text())


def grid(parameters: Mapping[str, Any]) -> list[list[str]]:
    """Each point of a sweep as wandb's agent writes `${args_no_hyphens}`."""
    names = list(parameters)
    return [
        [f"{name}={value}" for name, value in zip(names, values, strict=True)]
        for values in itertools.product(*(parameters[name]["values"] for name in names))
    ]


def test_every_point_of_the_sweep_is_a_run() -> None:
    """The grid, with what stands beside it in the command, composes; every point is another experiment."""
    assert sweep()["method"] == "grid"
    command = sweep()["command"]
    assert command[-1] == "${args_no_hyphens}", "Hydra takes key=value"
    fixed = [part for part in command if "=" in part]
    points = grid(sweep()["parameters"])
    assert len(points) > 1
    seen = set()
    for point in points:
        experiment = built(*fixed, *point)
        seen.add((experiment.fusion.func.__name__, experiment.lm_weight))  # type: ignore[attr-defined]
        assert "Wandb" in str(experiment.logger)
    assert len(seen) == len(points)


def test_the_program_of_the_sweep_is_ours() -> None:
    assert (ROOT / sweep()["program"]).is_file()
    assert sweep()["metric"] == {"name": "best/val_bits_per_byte", "goal": "minimize"}


def test_the_configuration_says_where_the_cache_is() -> None:
    """KNOWFUSE_CACHE, one key for all; without it the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KNOWFUSE_CACHE", raising=False)
        assert composed("train").cache == "~/.cache/knowfuse"
        patch.setenv("KNOWFUSE_CACHE", "/elsewhere")
        assert composed("train").cache == composed("prepare").cache == "/elsewhere"
