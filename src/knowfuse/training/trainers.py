"""What may a Trainer be asked for? Devices that the machine has, and a validation or more."""

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import Strategy

from knowfuse.ranks import ranks

COUNTS = ("max_steps", "val_check_interval", "accumulate_grad_batches")  # of a Trainer, that decide what is validated
FEW = 4  # processes that a machine of fewer cores has room for
DEVICES = ("accelerator", "devices", "num_nodes", "strategy", "precision")  # of a Trainer, that a machine may lack


def require_devices(trainer: Callable[..., L.Trainer]) -> None:
    """ValueError where the machine lacks what the Trainer asks for; it says what there is."""
    ranks()  # of whose environment, where nobody starts processes as it says, this machine is not to blame
    try:
        made = deepcopy(trainer)(logger=False)  # a strategy, which it may hold, serves one Trainer
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        settings = trainer.keywords if isinstance(trainer, partial) else {}
        given = {key: settings[key] for key in DEVICES if key in settings}
        given |= {"strategy": type(s).__name__} if isinstance(s := given.get("strategy"), Strategy) else {}
        asked = ", ".join(f"trainer.{key}={value}" for key, value in given.items())
        gpus = torch.cuda.device_count()
        raise ValueError(
            f"this machine cannot give {asked} ({error}): it has {gpus} GPUs and {os.cpu_count()} CPU cores; set "
            + (
                f"trainer.devices to at most {gpus}"
                if gpus
                else "trainer=cpu, or trainer.accelerator=cpu with trainer.devices=1"
            )
        ) from error
    cores = os.cpu_count() or 1
    if isinstance(made.accelerator, CPUAccelerator) and made.num_devices > (most := max(cores, FEW)):
        raise ValueError(
            f"trainer.devices is {made.num_devices}, and on the CPU each is a process that reads all anew: this machine has {cores} "
            f"CPU cores; set trainer.devices to at most {most}"
        )


def require_validations(trainer: Mapping[str, Any]) -> None:
    """ValueError unless these settings of a Trainer train, validate at least once, and lose no gradient at a stop."""
    for name in COUNTS:
        value = trainer.get(name, 1)
        if type(value) is not int or value < 1:
            raise ValueError(f"trainer.{name} is {value!r}: it must be a whole number of at least 1")
    steps, every, accumulated = (trainer.get(name, 1) for name in COUNTS)
    remedy = f"set trainer.val_check_interval={min(max(1, every // accumulated), steps) * accumulated}"
    if every % accumulated:
        raise ValueError(
            f"trainer.val_check_interval={every} batches is no multiple of trainer.accumulate_grad_batches="
            f"{accumulated}: a checkpoint would lose gradients that wait for a step; {remedy}"
        )
    if every > steps * accumulated:
        raise ValueError(
            f"trainer.val_check_interval={every} batches is more than the {steps * accumulated} of the whole fit "
            f"(trainer.max_steps={steps}): nothing would be validated or kept; {remedy}, or less to validate more often"
        )
