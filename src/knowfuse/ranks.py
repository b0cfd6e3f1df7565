"""Which of how many processes is this?"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import distributed

LAUNCHERS = {  # and what says that one is there
    "torchrun": (TorchElasticEnvironment, "TORCHELASTIC_RUN_ID"),
    "srun": (SLURMEnvironment, "SLURM_NTASKS"),
}
LOOK_AGAIN_S = 0.5  # seconds between two looks at what other ranks have written


@dataclass(frozen=True)
class Ranks:
    """This process among those of a job; `local` counts on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0


ALONE = Ranks()


def ranks() -> Ranks:
    """As Lightning reads torchrun and SLURM, or as it started this process itself; else one of one, whoever started it.

    A process that is to start others is alone until a Trainer of several devices has begun. ValueError where the environment is of
    a launcher that did not start this process.
    """
    for launcher, (environment, mark) in LAUNCHERS.items():
        if environment.detect():
            try:
                found = environment()
                return Ranks(found.global_rank(), found.world_size(), found.local_rank())
            except (KeyError, RuntimeError) as error:
                lacks = f"{error.args[0]} is not" if isinstance(error, KeyError) else f"Lightning refuses it ({error})"
                raise ValueError(
                    f"the environment variable {mark} is set, as by {launcher}, and {lacks}: start by {launcher}, or unset {mark}"
                ) from error
    if distributed.is_available() and distributed.is_initialized():
        return Ranks(distributed.get_rank(), distributed.get_world_size(), LightningEnvironment().local_rank())
    return ALONE


def of_first_rank(value: bool) -> bool:
    """What the first rank has here; one's own, alone and before a Trainer of several devices has begun."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    said = [value]
    distributed.broadcast_object_list(said, src=0)
    return said[0]


def wait_for(found: Callable[[], bool]) -> None:
    """Until other ranks have done their part; the launcher ends this one where one of them fails."""
    while not found():
        time.sleep(LOOK_AGAIN_S)
