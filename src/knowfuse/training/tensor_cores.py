"""Where do products of float32 run on a GPU? On its tensor cores, in TF32, where all others are in half precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch

from knowfuse.llms.sharding import FSDP2


@contextmanager
def tensor_cores(runner: L.Trainer) -> Iterator[None]:
    """As its fit needs them: TF32 rounds to more than half precision does, and a GPU is several times faster at it.

    The one product of float32 that counts is the gradient of the LM head, which is summed in float32. Without a GPU, and
    where all products are in float32, nothing changes.
    """
    strategy = runner.strategy
    kind = strategy.compute_dtype if isinstance(strategy, FSDP2) else runner.precision
    before = torch.get_float32_matmul_precision()
    if strategy.root_device.type == "cuda" and "16" in kind:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
