"""Which of how many processes is this?"""

from dataclasses import dataclass

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment


@dataclass(frozen=True)
class Ranks:
    """This process among those of a job; `local` counts on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0


def ranks() -> Ranks:
    """As Lightning reads torchrun and SLURM; one of one in any other process, whoever started it."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            found = environment()
            return Ranks(found.global_rank(), found.world_size(), found.local_rank())
    return Ranks()
