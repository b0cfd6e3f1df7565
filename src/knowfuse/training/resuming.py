"""How does a fit go on from a checkpoint, on as many ranks as before or on others?"""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from knowfuse.files import undamaged, write_whole
from knowfuse.llms.sharding import FSDP2
from knowfuse.training.checkpoints import SHARDED, latest_of, require_whole
from knowfuse.training.data import FusionDataModule
from knowfuse.training.other_settings import require_same_data

WORKERS = "num_workers"  # in the checkpoint
STEPS = "steps.json"  # in the folder of a run's fits


@dataclass(frozen=True)
class Steps:
    """What an optimizer step is made of."""

    ranks: int
    batch_blocks: int
    accumulate_grad_batches: int

    @property
    def blocks(self) -> int:
        """Of one optimizer step, on all ranks."""
        return self.ranks * self.batch_blocks * self.accumulate_grad_batches

    @classmethod
    def of(cls, trainer: L.Trainer, data: FusionDataModule) -> "Steps":
        return cls(trainer.world_size, data.batch_blocks, trainer.accumulate_grad_batches)

    def require_same(self, saved: "Steps", whose: str = "the checkpoint's steps") -> None:
        """ValueError unless a step has as many blocks as saved ones have."""
        if saved.blocks == self.blocks:
            return
        ways = []
        for name in ("accumulate_grad_batches", "batch_blocks"):
            here = "trainer.accumulate_grad_batches" if name.startswith("acc") else name
            others = self.blocks // getattr(self, name)
            if saved.blocks % others == 0:
                ways.append(f"{here}={saved.blocks // others}")
        advice = f"set {' or '.join(ways)}" if ways else f"use a number of ranks that divides {saved.blocks}"
        raise ValueError(
            f"{whose} have {saved.blocks} blocks ({saved}), this run's have {self.blocks} ({self}): a fit goes "
            f"on with the same blocks a step, {advice}"
        )

    def __str__(self) -> str:
        return (
            f"{self.ranks} ranks x batch_blocks {self.batch_blocks} x accumulate_grad_batches "
            f"{self.accumulate_grad_batches}"
        )


def keep_steps(fits: Path, steps: Steps, is_first_rank: bool) -> None:
    """Beside the fits of a run, for those to come: all take as many blocks a step, or they would not compare.

    ValueError where these are others than those of a fit that has a checkpoint.
    """
    file = fits / STEPS
    if file.exists() and latest_of(fits):
        with undamaged(file):
            before = Steps(**json.loads(file.read_text(encoding="utf-8")))
        steps.require_same(before, "the steps of this run's fits before")
    elif is_first_rank:
        write_whole(file, json.dumps(asdict(steps)).encode())


class KeepsItsPlace(L.Callback):
    """Keeps in the checkpoint what a step is made of, and finds the place in the data again with other ranks or data workers.

    With as many as before the loader itself does, whose state says nothing to one of another kind. The same blocks make up
    each step then, so the fit goes on as on one process, within the order of float32 sums, where `ranks x batch_blocks x
    accumulate_grad_batches` is the same.
    """

    def __init__(self) -> None:
        self.steps: Steps | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.steps, self.num_workers = Steps.of(trainer, _data(trainer)), _data(trainer).num_workers

    def state_dict(self) -> dict[str, Any]:
        assert self.steps is not None
        return {**asdict(self.steps), WORKERS: self.num_workers}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        saved, now = saved_steps(checkpoint), self.steps
        if saved is None or now is None:
            return
        workers = checkpoint["callbacks"][KeepsItsPlace.__name__].get(WORKERS)
        if saved == now and workers == self.num_workers:
            return
        now.require_same(saved)
        _data(trainer).blocks_taken = checkpoint["global_step"] * now.blocks
        loops = checkpoint["loops"]["fit_loop"]
        loops["state_dict"] = {}  # the places of the loaders; batches are counted anew
        for counts in (loops["epoch_loop.batch_progress"][key] for key in ("current", "total")):
            for key, batches in counts.items():
                counts[key] = batches // saved.accumulate_grad_batches * now.accumulate_grad_batches


def _data(trainer: L.Trainer) -> FusionDataModule:
    data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(data, FusionDataModule)
    return data


def saved_steps(checkpoint: dict[str, Any]) -> Steps | None:
    """Those of the fit that saved it; None for a checkpoint that is not ours."""
    state = checkpoint.get("callbacks", {}).get(KeepsItsPlace.__name__)
    return Steps(**{field.name: state[field.name] for field in fields(Steps)}) if state else None


class RandomStates(L.Callback):
    """Keeps the random states of every rank in the checkpoint, and sets them when training goes on.

    With fewer ranks than before the first ones keep theirs; a rank that was not there before draws a seed from the state
    of one that was.
    """

    def __init__(self) -> None:
        self.loaded: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        mine: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
        name, keys, position, has_gauss, gauss = np.random.get_state()
        mine["numpy"] = (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss)
        if torch.cuda.is_available():
            mine["cuda"] = torch.cuda.get_rng_state()
        states: list[Any] = [mine]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            states = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, mine)
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loaded = state_dict["ranks"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.loaded is None:
            return
        rank, before = trainer.global_rank, len(self.loaded)
        mine = self.loaded[rank % before]
        torch.set_rng_state(mine["torch"])
        random.setstate(mine["python"])
        name, keys, *rest = mine["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        if "cuda" in mine and torch.cuda.is_available():
            torch.cuda.set_rng_state(mine["cuda"])
        if rank >= before:
            seed = random.getrandbits(31) + rank // before
            L.seed_everything(seed, verbose=False)


def require_resumable(
    checkpoint: Path, trainer: L.Trainer, data: FusionDataModule, settings: Mapping[str, Any]
) -> None:
    """ValueError for a checkpoint that this fit, of a run with these flat settings, cannot go on from.

    One that cannot be read, that has trained for longer than this fit may, that is in shards where this fit is not, whose
    steps have other blocks, or that is of other data or of another optimizer.
    """
    if checkpoint.is_dir() and not isinstance(trainer.strategy, FSDP2):
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} is in shards, which only trainer=fsdp goes on from: use it, on one process "
            "too, or keep checkpoints in one file with trainer.strategy.save_distributed_checkpoint=false"
        )
    require_whole(checkpoint)
    file = checkpoint / SHARDED if checkpoint.is_dir() else checkpoint
    saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    steps = int(saved["global_step"])
    if steps > trainer.max_steps:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} has trained for {steps} steps, trainer.max_steps is {trainer.max_steps}: "
            "nothing would be trained; set it higher, or score that checkpoint's own run"
        )
    require_same_data(checkpoint, saved.get("callbacks", {}), settings)
    if before := saved_steps(saved):
        Steps.of(trainer, data).require_same(before)
