"""What will a run need? Memory, disk and hours, without loading a weight; warns where it does not fit.

python -m knowfuse.plan experiment=fusellm_7b trainer=fsdp trainer.devices=8
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from transformers import PretrainedConfig

from knowfuse.commands.command import command
from knowfuse.llms.attention import ELSEWHERE
from knowfuse.llms.known import FOLDER, llm_config
from knowfuse.llms.licences import concerns
from knowfuse.plan.advice import merged, what_fits
from knowfuse.plan.gpus import GPU, GPUS, gpu_named
from knowfuse.plan.memory import Memory, Training, training
from knowfuse.plan.settings import TrainingShape, training_shape
from knowfuse.plan.work import Reading, corpus_bytes, hours, reading, training_flops
from knowfuse.runs.described import experiment_of
from knowfuse.runs.folder import require_complete
from knowfuse.runs.where import register_resolvers
from knowfuse.screen import quiet_libraries, say, show_table
from knowfuse.types import LLMSpec

GIB = 2**30
CONF = Path.cwd() / "conf"

register_resolvers()  # train.yaml's run folder has one


@dataclass(frozen=True)
class Plan:
    """All figures of a run."""

    target: str
    training: Training
    readings: dict[str, Reading]
    text: int  # bytes that the sources read
    gpu: GPU
    usable: float  # bytes of the GPU that may be planned with
    utilisation: float

    @property
    def memory(self) -> Memory:
        return self.training.memory()

    @property
    def flops(self) -> float:
        """Of all fits."""
        return training_flops(self.training) * self.training.shape.fits

    @property
    def tracing_flops(self) -> float:
        return sum(r.flops for r in self.readings.values())

    def fits(self, shape: TrainingShape, config: PretrainedConfig) -> bool:
        return training(config, shape).memory().total <= self.usable


def make_plan(cfg: DictConfig, target: PretrainedConfig, sources: Mapping[str, PretrainedConfig]) -> Plan:
    """ValueError for a GPU that is not known, and shares that are none."""
    gpu = gpu_named(cfg.gpu)
    for name in ("utilisation", "room"):
        if not isinstance(cfg[name], int | float) or not 0 < cfg[name] <= 1:
            raise ValueError(f"{name} is {cfg[name]!r}: it is a share, above 0 and at most 1, such as {name}=0.4")
    for name in ("bytes_per_token", "corpus_bytes"):
        if cfg[name] is not None and not (isinstance(cfg[name], int | float) and cfg[name] > 0):
            raise ValueError(f"{name} is {cfg[name]!r}: it must be a number above 0")
    shape = training_shape(cfg)
    known = {str(name): int(size) for name, size in cfg.known_corpora.items()}
    corpus = OmegaConf.to_container(cfg.corpus, resolve=True)
    assert isinstance(corpus, dict)
    text = round(cfg.fusion_share * (cfg.corpus_bytes or corpus_bytes(corpus, known)))  # pyright: ignore[reportArgumentType]
    tokens, document = text / cfg.bytes_per_token, shape.document_tokens
    specs: dict[str, LLMSpec] = hydra.utils.instantiate(cfg.sources, _convert_="all")
    readings = {
        name: reading(config, specs[name], shape.top_k, cfg.tracing.batch_tokens, document, tokens, cfg.traces)
        for name, config in sources.items()
    }
    planned = training(target, shape)
    name = cfg.target.get("path") or "the recipe's"
    return Plan(name, planned, readings, text, gpu, gpu.memory * 1e9 * cfg.room, cfg.utilisation)


def show(plan: Plan) -> None:
    """The figures as tables."""
    shape, size, memory = plan.training.shape, plan.training.size, plan.memory
    table = Table(title=f"Training {plan.target}: GiB on each of {shape.gpus} x {plan.gpu.name}")
    for column, justify in (("", "left"), ("GiB", "right"), ("", "left")):
        table.add_column(column, justify=justify)  # pyright: ignore[reportArgumentType]
    notes = {
        "weights": f"{_count(size.parameters)} parameters, {_name(shape.weights)}{_over(shape)}",
        "gradients": f"{_count(size.trained)} trained ({shape.finetune}){_over(shape)}",
        "optimizer": f"{shape.optimizer}{_over(shape)}",
        "activations": f"{shape.batch_blocks} x {shape.block_tokens} tokens, {_name(shape.compute)}"
        + (", checkpointed" if shape.is_checkpointed else ""),
        "loss": f"{min(shape.chunk_rows, shape.batch_blocks * shape.block_tokens)} x {size.vocabulary} logits, gradient of the head",
        "gathered weights": "embedding, head" + (", two decoder layers" if "layers" in memory.moment else ""),
    }
    for name, part in memory.parts.items():
        table.add_row(name, _figure(part / GIB), notes.get(name, ""))
    table.add_section()
    table.add_row("peak", _figure(memory.total / GIB), f"at: {memory.moment}; usable {plan.usable / GIB:.1f}")
    show_table(table)

    table = Table(title=f"Tracing: {plan.text:,} bytes of text, K = {shape.top_k}")
    for column in ("source", "parameters", "GiB on a GPU", "PFLOP", f"hours of one {plan.gpu.name}", "traces, GiB"):
        table.add_column(column, justify="left" if column == "source" else "right")
    for name, r in plan.readings.items():
        spent = hours(r.flops, plan.gpu, 1, plan.utilisation)
        figures = (r.memory / GIB, r.flops / 1e15, spent, r.disk / GIB)
        parameters = "on its server" if r.parameters is None else _count(r.parameters)
        table.add_row(name, parameters, *map(_figure, figures))
    show_table(table)

    table = Table(title=f"Hours on {shape.gpus} GPUs at {plan.utilisation:.0%} of their peak")
    for column in ("GPU", "TFLOP/s", "tracing", "training", "fits"):
        table.add_column(column, justify="left" if column == "GPU" else "right")
    for gpu in GPUS.values():
        spent = (hours(f, gpu, shape.gpus, plan.utilisation) for f in (plan.tracing_flops, plan.flops))
        is_fitting = memory.total <= plan.usable * gpu.memory / plan.gpu.memory
        table.add_row(gpu.name, f"{gpu.flops / 1e12:.0f}", *map(_figure, spent), "yes" if is_fitting else "no")
    show_table(table)


def _figure(value: float) -> str:
    return "< 0.01" if 0 < value < 0.005 else f"{value:,.2f}"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _over(shape: TrainingShape) -> str:
    return f", over {shape.shards} GPUs" if shape.shards > 1 else ""


def assumptions(plan: Plan, cfg: DictConfig) -> list[str]:
    """What the figures rest on, a line each."""
    shape = plan.training.shape
    lines = [
        f"training: {shape.fits} fits of {shape.steps} steps, each {shape.tokens:,} tokens and {_figure(training_flops(plan.training) / 1e15)} PFLOP",
        f"a source's token is {cfg.bytes_per_token} bytes (bytes_per_token); documents are as long as they may be",
        "memory is that of tensors, from the second step on",
        f"attention: {shape.attention or 'the kernel that transformers chooses'}; eager keeps the scores of each document, fused ones none",
        f"{1 - cfg.room:.0%} of a GPU is left to CUDA and to what lies between tensors (room)",
    ]
    if shape.compute.itemsize > 2:
        lines.append(
            "hours are for products in bfloat16, this run's are in float32: TF32 has half of that peak, at most"
        )
    if cfg.trainer.accelerator == "cpu":
        lines.append("trainer.accelerator=cpu: the memory is the machine's, the hours are those that GPUs would take")
    if spread := [name for name in plan.readings if cfg.sources[name].get("device_map")]:
        lines.append(
            f"spread by accelerate over GPUs, CPU memory and disk: {', '.join(spread)}; what no GPU holds comes anew for each "
            "batch, which these hours leave out: tracing.batch_tokens higher means fewer"
        )
    if served := [name for name, r in plan.readings.items() if r.parameters is None]:
        lines.append(f"served elsewhere, needs nothing here but disk for its traces: {', '.join(served)}")
    if shape.optimizer == "paged_adamw_8bit":
        lines.append("the paged optimizer's states are counted as in the memory of the CPU")
    return lines


def warnings(plan: Plan, cfg: DictConfig, target: PretrainedConfig) -> list[str]:
    """What does not fit, and what to set so that it does."""
    found = []
    if plan.memory.total > plan.usable:
        stated = list(HydraConfig.get().overrides.task)

        def shape_with(overrides: list[str]) -> TrainingShape | None:
            try:
                composed = compose("plan", merged(stated, overrides))
                experiment_of(composed)
                return training_shape(composed)
            # No such setting, or not with the others.
            except (ConfigCompositionException, InstantiationException, ValueError):
                return None

        start = (
            f"the training does not fit: {plan.memory.total / GIB:.1f} GiB on a GPU of {plan.usable / GIB:.1f} usable"
        )
        overrides = what_fits(plan.training.shape, shape_with, lambda shape: plan.fits(shape, target))
        if overrides is None:
            found.append(f"{start}, nor do all overrides that make it smaller; take another gpu, or a smaller target")
        else:
            shape = shape_with(overrides)
            assert shape is not None
            total = training(target, shape).memory().total
            found.append(f"{start}; with {' '.join(overrides)} it does: {total / GIB:.1f} GiB")
    for name, r in plan.readings.items():
        if r.memory > plan.usable and not cfg.sources[name].get("device_map"):
            found.append(_too_large(name, r, plan.usable))
    place = cfg.tracing.place or cfg.cache
    if "://" not in place:
        disk, free = sum(r.disk for r in plan.readings.values()), _free(Path(place).expanduser())
        if disk > free:
            found.append(
                f"the traces do not fit: {disk / GIB:.1f} GiB, {place} has {free / GIB:.1f} free; set tracing.place to a folder "
                "or URL with room, or top_k lower"
            )
    return found


def _too_large(name: str, r: Reading, usable: float) -> str:
    """`++` sets what a source's file says, and adds what it does not."""
    lower = "set tracing.batch_tokens lower, " if r.weights < usable else "set "
    return (
        f"source {name} needs {r.memory / GIB:.1f} GiB and one GPU holds {usable / GIB:.1f}: {lower}++sources.{name}.device_map=auto "
        f"to spread it over all GPUs, CPU memory and disk, or ++sources.{name}.quantization=4bit; or serve it where it fits and set "
        f"++sources.{name}.server=http://<host>:<port>/v1"
    )


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@command("plan", CONF, run_dir=".")
def main(cfg: DictConfig) -> None:
    """Prints the plan of the run that train.py would make of the same overrides."""
    quiet_libraries()
    require_complete(cfg)
    experiment = experiment_of(cfg)
    if experiment.debug is not None:
        raise ValueError(f"debug={experiment.debug} trains nothing, and a plan is of a training: leave it out")
    experiment.require_attention(ELSEWHERE)
    target = llm_config("target", experiment.target, CONF)
    experiment.require_learnable(target)
    plan = make_plan(cfg, target, {name: llm_config(name, spec, CONF) for name, spec in experiment.sources.items()})
    show(plan)
    for line in assumptions(plan, cfg):
        say(f"- {line}")
    for warning in [*warnings(plan, cfg, target), *concerns(experiment.sources, CONF / FOLDER)]:
        say(f"WARNING: {warning}")


if __name__ == "__main__":
    main()
