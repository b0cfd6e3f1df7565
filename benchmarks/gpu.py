"""One part of `benchmarks/gpu.sh`, whose header says what the parts are. Prints its figures as a line of JSON."""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from knowfuse.llms.known import llm_config
from knowfuse.plan.memory import training
from knowfuse.plan.settings import training_shape
from knowfuse.runs.where import register_resolvers
from knowfuse.screen import quiet_libraries
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.traces.reading import trace_documents

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
ALWAYS = ("eager", "sdpa")  # kernels that every machine has
WARM_UP = 3  # steps that are not counted


@dataclass
class Asked:
    """What the command line says."""

    accelerator: str  # gpu | cpu
    model: str | None  # folder of an LLM; None: the quickstart's recipes
    steps: int  # that are counted
    overrides: list[str]

    def settings(self, *more: str) -> DictConfig:
        """Those of train.py; a model is both the target and, in bfloat16, the one source."""
        with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
            constant = "lm_weight_schedule=constant"  # the steps that are timed validate nothing
            cfg = compose("train", [f"trainer={self.accelerator}", constant, *self.overrides, *more])
        if self.model is not None:
            OmegaConf.set_struct(cfg, False)
            spec = {"_target_": "knowfuse.types.LLMSpec", "path": self.model}
            cfg.sources, cfg.target = {"model": {**spec, "dtype": "bfloat16"}}, {**spec, "dtype": "float32"}
        return cfg


class Watch(L.Callback):
    """Seconds of each step after the first few, and the bytes of the GPU that were in use at most during them."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if len(self.starts) == WARM_UP and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        _synchronize()
        self.starts.append(time.perf_counter())

    def on_train_end(self, *_: Any) -> None:
        _synchronize()
        self.starts.append(time.perf_counter())
        self.peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None

    @property
    def seconds(self) -> float:
        counted = self.starts[WARM_UP:]
        return statistics.median(after - before for before, after in itertools.pairwise(counted))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def learned(cfg: DictConfig, method: str, steps: int) -> dict[str, Any]:
    """What a step of this method takes, and the peak of the GPU beside the plan's."""
    experiment = hydra.utils.instantiate(cfg, _convert_="all")
    experiment.require_machine()
    prepared, watch = experiment.prepare(), Watch()
    L.seed_everything(experiment.seed, verbose=False)
    experiment.trainer(
        max_steps=steps + WARM_UP,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(experiment.module(prepared, method, experiment.learning_rates[0]), experiment.data(prepared, method))
    tokens = cfg.batch_blocks * cfg.block_tokens * cfg.trainer.accumulate_grad_batches
    plan = OmegaConf.load(ROOT / "conf" / "plan.yaml")
    shape = training_shape(
        OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(cfg)), {"bytes_per_token": plan.bytes_per_token})
    )
    planned = training(llm_config("target", experiment.target, ROOT / "conf"), shape).memory().total
    figures = {"step_seconds": watch.seconds, "tokens_per_second": tokens / watch.seconds, "planned_bytes": planned}
    return figures | {"peak_bytes": watch.peak, "peak_vs_plan": watch.peak / planned if watch.peak else None}


def quickstart(asked: Asked) -> dict[str, Any]:
    """The main job by its own command: seconds, and bits per byte on the test split."""
    return _trained(asked, f"trainer={asked.accelerator}")


def steps(asked: Asked) -> dict[str, Any]:
    """A fused step against a CLM step."""
    found = {method: learned(asked.settings(), method, asked.steps) for method in ("clm", "fused")}
    return {**found, "fused_step_vs_clm_step": found["fused"]["step_seconds"] / found["clm"]["step_seconds"]}


def tracing(asked: Asked) -> dict[str, Any]:
    """Tokens a second that the first source reads, K kept."""
    cfg = asked.settings()
    prepared = hydra.utils.instantiate(cfg, _convert_="all").prepare()
    source = next(iter(prepared.sources.values()))
    tokens = tokenize_documents(source.surface, prepared.corpus.split("fusion"), source.llm.context_length())
    with source.llm.to_read(prepared.cache) as model:
        read = partial(trace_documents, model, source.surface, tokens, cfg.top_k, cfg.tracing.batch_tokens)
        if asked.accelerator == "gpu":
            for _ in read():  # kernels are chosen and compiled at first use
                pass
        _synchronize()
        began = time.perf_counter()
        for _ in read():
            pass
        _synchronize()
    count = sum(tokens.lengths.values())
    return {"tokens": count, "tokens_per_second": count / (time.perf_counter() - began)}


def attention(asked: Asked) -> dict[str, Any]:
    """A CLM step by each attention kernel, weights in bfloat16, which flash attention asks for.

    One that this machine lacks says why; those that all machines have must run.
    """
    found: dict[str, Any] = {}
    for kernel in KERNELS:
        cfg = asked.settings()
        OmegaConf.set_struct(cfg, False)
        cfg.target = OmegaConf.merge(cfg.target, {"attention": kernel, "dtype": "bfloat16"})
        try:
            found[kernel] = learned(cfg, "clm", asked.steps)
        except Exception as error:
            if kernel in ALWAYS:
                raise
            found[kernel] = {"refused": " ".join(str(error).split())}
    return found


def qlora(asked: Asked) -> dict[str, Any]:
    """A fused step of adapters beside a base in 4 bits."""
    return learned(asked.settings("finetune=qlora"), "fused", asked.steps)


def fsdp(asked: Asked) -> dict[str, Any]:
    """The main job in shards over all GPUs, or over two processes on the CPU."""
    if asked.accelerator == "gpu" and torch.cuda.device_count() < 2:
        return {"skipped": f"{torch.cuda.device_count()} GPU"}
    devices = torch.cuda.device_count() if asked.accelerator == "gpu" else 2
    return _trained(asked, "trainer=fsdp", f"trainer.accelerator={asked.accelerator}", f"trainer.devices={devices}")


def _trained(asked: Asked, *overrides: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", *asked.overrides, *overrides, f"hydra.run.dir={folder}/run"]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - began
        results = json.loads((Path(folder) / "run" / "results.json").read_text())
    return {"seconds": seconds, "bits_per_byte": {name: bits["mean"] for name, bits in results["rows"].items()}}


PARTS: dict[str, Callable[[Asked], dict[str, Any]]] = {
    part.__name__: part for part in (quickstart, steps, tracing, attention, qlora, fsdp)
}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {"gpus": gpus, "cores": os.cpu_count(), "torch": torch.__version__, "cuda": torch.version.cuda}


def summary(folder: Path, asked: Sequence[str]) -> dict[str, Any]:
    """The figures of all parts, and of those that failed the last line of what they said."""
    found: dict[str, Any] = {"machine": machine(), "failed": {}}
    for part in asked:
        status = int((folder / f"{part}.status").read_text())
        lines = (folder / f"{part}.{'out' if status == 0 else 'err'}").read_text(errors="replace").split("\n")
        said = [line for line in lines if line.strip()] or ["it said nothing"]
        if status == 0:
            found[part] = json.loads(said[-1])
        else:
            found["failed"][part] = f"exit status {status}{' (time limit)' if status in (124, 137) else ''}: {said[-1]}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "summary"])
    parser.add_argument("--accelerator", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--model", default=None)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="of summary: where the parts left what they said")
    parser.add_argument("more", nargs="*", help="overrides of train.py; of summary: the parts")
    arguments = parser.parse_args()
    quiet_libraries()
    register_resolvers()
    if arguments.part == "summary":
        found = summary(arguments.folder, arguments.more)
        print(json.dumps(found))
        sys.exit(bool(found["failed"]))
    asked = Asked(arguments.accelerator, arguments.model or None, arguments.steps, arguments.more)
    print(json.dumps(PARTS[arguments.part](asked)))


if __name__ == "__main__":
    main()
