"""Which of how many processes is this, and which documents are its share?"""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from knowfuse.corpus import Document


@dataclass(frozen=True)
class Ranks:
    """This process among those of a job; `local` counts on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    def share(self, documents: Sequence[Document]) -> list[Document]:
        """The documents that this process reads: about as many bytes for each, the same whoever has read some before."""
        by_size = sorted(documents, key=lambda d: (-len(d.text.encode()), d.id))
        turns = (self.rank, 2 * self.world - 1 - self.rank)  # there and back: 0 1 2 2 1 0 0 1 ...
        return [d for n, d in enumerate(by_size) if n % (2 * self.world) in turns]


def ranks() -> Ranks:
    """As Lightning reads torchrun and SLURM; one of one in any other process, whoever started it."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            found = environment()
            return Ranks(found.global_rank(), found.world_size(), found.local_rank())
    return Ranks()
