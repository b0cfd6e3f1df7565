"""What becomes of settings that are other than those of the checkpoint which a fit goes on from?

All are applied, or refused by name. Lightning's restored optimizer would keep the weight decay and betas of the checkpoint,
and its schedule the rate of the last step until the next.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from knowfuse.screen import say

# Of the run, not of what a fit learns: where it is, what it logs, and how it is spread and measured.
OF_THE_RUN = {
    "name",
    "cache",
    "ckpt_path",
    "logger",
    "tracing",
    "compare_with_clm",
    "learning_rates",
    "clm_learning_rates",
}
OF_THE_RUN |= {"num_workers", "prefetch_batches", "debug", "batch_blocks"}
OF_THE_RUN |= {f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "val_check_interval")}
OF_THE_RUN |= {f"trainer.{key}" for key in ("accumulate_grad_batches", "log_every_n_steps")}
# What a place in the data, or the optimizer's state, is of. Target and finetune are compared by their contents.
REFUSED = {"corpus", "block_tokens", "packing", "optimizer._target_"}


class KeepsSettings(L.Callback):
    """Keeps the settings of the run, flat, in the checkpoint; where a fit goes on, it does so with its own, and says which
    are other.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name, self.settings = name, dict(settings)
        self.saved: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"settings": self.settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.saved = state_dict["settings"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.saved is None:
            return
        if other := differing(self.saved, self.settings, OF_THE_RUN):
            said = ", ".join(f"{key} {before!r} -> {now!r}" for key, (before, now) in other.items())
            say(f"{self.name}: goes on with settings that are not the checkpoint's: {said}")
        before, now = _apply(trainer, pl_module)
        if before != now:
            say(
                f"{self.name}: the learning rate goes on at {now:g}, not at the checkpoint's {before:g}: step "
                f"{trainer.global_step} of a schedule over trainer.max_steps={trainer.max_steps}"
            )


def _apply(trainer: L.Trainer, module: L.LightningModule) -> tuple[float, float]:
    """Give the restored optimizer and schedule this fit's own settings; the learning rate before and after.

    Its moments stay, as does the number of its steps.
    """
    fresh: Any = module.configure_optimizers()
    (optimizer,) = trainer.optimizers
    for group, wanted in zip(optimizer.param_groups, fresh["optimizer"].param_groups, strict=True):
        for key in wanted.keys() - {"params", "lr", "initial_lr"}:
            group[key] = wanted[key]
    schedule, wanted_schedule = trainer.lr_scheduler_configs[0].scheduler, fresh["lr_scheduler"]["scheduler"]
    assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
    schedule.base_lrs = wanted_schedule.base_lrs
    before = float(optimizer.param_groups[0]["lr"])
    rates = [
        float(base) * rule(schedule.last_epoch)
        for base, rule in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, base, rate in zip(optimizer.param_groups, schedule.base_lrs, rates, strict=True):
        group["initial_lr"], group["lr"] = base, rate
    return before, rates[0]


def differing(saved: Mapping[str, Any], now: Mapping[str, Any], but: set[str]) -> dict[str, tuple[Any, Any]]:
    """Flat settings that are not the same in both, but for these, and both values; None stands for none."""
    keys = [key for key in {**saved, **now} if not within(key, but)]
    return {key: (saved.get(key), now.get(key)) for key in keys if saved.get(key) != now.get(key)}


def require_same_data(checkpoint: Path, callbacks: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """ValueError where a checkpoint's place in the data, or its optimizer's state, is none under these settings."""
    saved = callbacks.get(KeepsSettings.__name__)
    if saved is None:
        return
    for key, (before, now) in differing(saved["settings"], settings, OF_THE_RUN).items():
        if within(key, REFUSED):
            what = (
                "its optimizer's state is of another kind"
                if key.startswith("optimizer")
                else "its place in the data is none here"
            )
            raise ValueError(
                f"checkpoint {str(checkpoint)!r} is of a run with {key}={before!r}, this run has {now!r}: {what}; set it as it was, or "
                "start from that run's target (python -m knowfuse.export) without ckpt_path"
            )


def within(key: str, names: set[str]) -> bool:
    """Whether a dotted key is one of these, or inside one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)
