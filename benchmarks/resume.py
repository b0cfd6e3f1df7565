"""Does a fused fit that is stopped and goes on end with the very bits of one that nobody stopped?

    python benchmarks/resume.py
    python benchmarks/resume.py --processes 1 --kinds plain lora --stops SIGKILL
    python benchmarks/resume.py --rounds 0    # a seventh of it: all stops of all numbers of processes, every kind once or twice

One process, two in DDP, two in FSDP2 (on the CPU), each with every kind of fit, each stopped by SIGTERM, SIGKILL and an exception
one step past a checkpoint, and by SIGTERM at any time, drawn by `--seed` from the CPU time of the fit, from the making of its first
batch to its last file; where torchrun starts the ranks, SIGTERM reaches all of them and the others one. Every fit is that of
`train.py`'s settings in miniature, from its prepared cache, through its run folder. Compared are all tensors of the last and
of the best checkpoint (weights, moments, random states), and what the fit says of itself. Combinations that a run refuses are named:
an 8-bit optimizer of parameters in shards is the one that is to be. Prints JSON: `cases`, `identical`, `refused`, and `cells`, the stops
that were seen of each number of processes and kind.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from disturbed import ROOT, SHORT, SMALL, Command, Ended, in_processes, run, same
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedModel

from knowfuse.runs.folder import checkpoints_to_resume, open_run
from knowfuse.screen import quiet_libraries

STOP_STEP = 5  # checkpoints are at even steps, the fit has 8
SETTINGS = [*SMALL, *SHORT, "compare_with_clm=false", "name=resume", "logger=csv"]
PROCESSES = {
    "1": [],
    "2 DDP": ["trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.devices=2"],
    "2 FSDP2": ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2"],
}
KINDS = {
    "plain": [],
    "accumulation": ["batch_blocks=1", "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=4"],
    "workers": ["num_workers=1"],
    "dropout": ["+sources.llama2.path={dropout}", "sources.llama2.recipe=null"],
    "lora": ["finetune=lora", "finetune.dropout=0.1", "finetune.rank=4"],
    "adamw_8bit": ["optimizer=adamw_8bit"],
    "inside validation": [],
}
ANY_TIME = "SIGTERM at any time"
STOPS = ("SIGTERM", "SIGKILL", "exception", ANY_TIME)
SPENT = "cpu_seconds"  # file of a run that came to its end: of its fit
MOST_DRAWS = 5
LOOK_S = 0.002  # between two looks at the CPU time of this process


@dataclass(frozen=True)
class Case:
    processes: str
    kind: str

    @property
    def world(self) -> int:
        return int(self.processes[0])

    def overrides(self, where: Path) -> list[str]:
        kind = [setting.format(dropout=where / "dropout") for setting in KINDS[self.kind]]
        return [*SETTINGS, *PROCESSES[self.processes], *kind, f"cache={where / 'cache'}"]


def round_of(case: Case, stop: str) -> int:
    """Of each round every stop of every number of processes is of another kind; all kinds are there."""
    cell = len(STOPS) * list(PROCESSES).index(case.processes) + STOPS.index(stop)
    return (list(KINDS).index(case.kind) - cell) % len(KINDS)


def composed(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose("train", overrides)


@dataclass(frozen=True)
class Stop:
    """How a fit is stopped; at any time: which rank, after so many seconds of CPU time."""

    by: str
    rank: int = 0
    after_s: float = 0.0

    @classmethod
    def drawn(cls, by: str, world: int, undisturbed: Path, draw: random.Random) -> "Stop":
        """One of the times that a fit took which came to its end."""
        if by != ANY_TIME:
            return cls(by)
        return cls(by, draw.randrange(world), draw.uniform(0.0, float((undisturbed / SPENT).read_text())))

    def __str__(self) -> str:
        return f"{self.by}, rank {self.rank} after {self.after_s:.3f} s" if self.by == ANY_TIME else self.by


def one_fit(case: Case, where: Path, folder: Path, ckpt_path: str | None, stop: Stop | None, rank: int) -> None:
    """As `train.py` does it, up to the end of the fit."""
    quiet_libraries()
    cfg = composed(case.overrides(where))
    cfg.ckpt_path = ckpt_path
    experiment = hydra.utils.instantiate(cfg, _convert_="all")
    with open_run(folder, cfg) as run_folder:
        resume = checkpoints_to_resume(run_folder, ckpt_path, experiment.fit_names)
        prepared = experiment.prepare()
        if stop is not None:
            _stop_at(case, stop, rank)
        began = time.process_time()
        experiment.train(prepared, "fused", run_folder, resume)
        if rank == 0:
            (folder / SPENT).write_text(str(time.process_time() - began))


def _stop_at(case: Case, stop: Stop, rank: int) -> None:
    """At the end of an optimizer step, or in the forward pass of the validation that follows the next one; or by the clock."""
    if stop.by == ANY_TIME:
        if rank == stop.rank:
            threading.Thread(target=_stop_after, args=(time.process_time() + stop.after_s,), daemon=True).start()
        return
    if stop.by != "SIGTERM" and rank != case.world - 1:
        return
    steps = [0]

    def end() -> None:
        if stop.by == "exception":
            raise RuntimeError("stopped by the benchmark")
        os.kill(os.getpid(), getattr(signal, stop.by))

    def step(*_: Any) -> None:
        steps[0] += 1
        if steps[0] == STOP_STEP and case.kind != "inside validation":
            end()

    def forward(module: torch.nn.Module, *_: Any) -> None:
        if steps[0] > STOP_STEP and isinstance(module, PreTrainedModel) and not module.training:
            steps[0] = -10
            end()

    register_optimizer_step_post_hook(step)
    if case.kind == "inside validation":
        torch.nn.modules.module.register_module_forward_pre_hook(forward)


def _stop_after(cpu_seconds: float) -> None:
    while time.process_time() < cpu_seconds:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)


def loaded(checkpoint: Path) -> Any:
    """All that a checkpoint holds, but the places of files."""
    if not checkpoint.is_dir():
        return _without_places(torch.load(checkpoint, weights_only=True))
    reader = FileSystemReader(checkpoint)
    names = {
        k: v for k, v in reader.read_metadata().state_dict_metadata.items() if isinstance(v, TensorStorageMetadata)
    }
    tensors = {name: torch.empty(its.size, dtype=its.properties.dtype) for name, its in names.items()}
    load_shards(tensors, storage_reader=reader, no_dist=True)
    return tensors, _without_places(torch.load(checkpoint / "meta.pt", weights_only=True))


def _without_places(checkpoint: dict[str, Any]) -> dict[str, Any]:
    callbacks = {name: state for name, state in checkpoint["callbacks"].items() if "BestAndLast" not in name}
    return {**checkpoint, "callbacks": callbacks}


def differing(one: Path, other: Path) -> list[str]:
    """What of two fits is not the same."""
    mine, its = (next((folder / "fits").glob("*/")) for folder in (one, other))
    found = [n for n in ("last.ckpt", "best.ckpt") if not same(*(loaded(fit / n) for fit in (mine, its)))]
    return [*found, *(n for n in ("fit.json", "curves.json") if (mine / n).read_bytes() != (its / n).read_bytes())]


def tried(case: Case, where: Path, stops: list[str], draw: random.Random, console: Console) -> list[dict[str, Any]]:
    """One fit undisturbed, and one stopped in each of these ways that goes on."""
    place = where / f"{case.processes} {case.kind}"
    whole = in_processes(partial(one_fit, case, where, place / "whole", None, None), case.world, where)
    if not whole.is_well:
        refused = next((line for line in whole.said.splitlines() if line.startswith("ValueError: ")), None)
        if refused is None:
            raise SystemExit(f"{case} fails undisturbed:\n{whole.said}")
        console.print(f"{case.processes}, {case.kind}: refused, {refused.removeprefix('ValueError: ')}")
        return [{"processes": case.processes, "kind": case.kind, "refused": refused}]
    found = []
    for by in stops:
        folder = place / by
        stop, first = _stopped(case, where, place, by, draw)
        again = in_processes(partial(one_fit, case, where, folder, "last", None), case.world, where)
        other = ["it was not stopped"] if first.is_well else []
        other += differing(place / "whole", folder) if again.is_well else [again.said[-2000:]]
        found.append({"processes": case.processes, "kind": case.kind, "stop": str(stop), "differs": other})
        console.print(f"{case.processes}, {case.kind}, {stop}: {other or 'identical'}")
    return found


def _stopped(case: Case, where: Path, place: Path, by: str, draw: random.Random) -> tuple[Stop, Ended]:
    """How a fit was stopped, and ended; at a time that comes after its end another is drawn, from the time that it took itself.

    The first of all may have compiled what the others find.
    """
    draws, undisturbed = MOST_DRAWS if by == ANY_TIME else 1, place / "whole"
    while True:
        stop = Stop.drawn(by, case.world, undisturbed, draw)
        shutil.rmtree(place / by, ignore_errors=True)
        first = in_processes(partial(one_fit, case, where, place / by, None, stop), case.world, where)
        draws -= 1
        if not first.is_well or not draws:
            return stop, first
        undisturbed = place / by


def with_dropout(where: Path) -> None:
    """The target's folder, whose attention drops out in training."""
    (made,) = (where / "cache" / "recipes").glob("llama2-*/")
    (where / "dropout").mkdir()
    for file in made.iterdir():
        (where / "dropout" / file.name).write_bytes(file.read_bytes())
    config = json.loads((made / "config.json").read_text())
    (where / "dropout" / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", nargs="*", choices=list(PROCESSES), default=list(PROCESSES))
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--stops", nargs="*", choices=STOPS, default=list(STOPS))
    every = range(len(KINDS))
    parser.add_argument("--rounds", type=int, nargs="*", choices=every, default=every, help="of these, twelve each")
    parser.add_argument("--seed", type=int, default=0, help="of the times of SIGTERM at any time")
    arguments = parser.parse_args()
    console, draw = Console(width=200), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        prepared = run(Command("-m knowfuse.prepare", tuple(SMALL)), where)
        if not prepared.is_well:
            raise SystemExit(prepared.said)
        with_dropout(where)
        cases = [Case(processes, kind) for processes in arguments.processes for kind in arguments.kinds]
        found = []
        for case in cases:
            if stops := [stop for stop in arguments.stops if round_of(case, stop) in arguments.rounds]:
                found += tried(case, where, stops, draw, console)
    print(json.dumps(figures(found)))


def figures(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What was seen, and of which cells of the matrix."""
    stopped = [one for one in found if "refused" not in one]
    cells: dict[str, list[str]] = {}
    for one in stopped:
        cells.setdefault(f"{one['processes']}, {one['kind']}", []).append(one["stop"])
    refused = [f"{one['processes']}, {one['kind']}" for one in found if "refused" in one]
    identical = sum(not one["differs"] for one in stopped)
    return {"cases": len(stopped), "identical": identical, "refused": refused, "cells": cells}


if __name__ == "__main__":
    main()
