"""How is an LLM read that is larger than one GPU? accelerate keeps its layers on several devices, in the CPU's memory and on disk.

Each module has a hook that brings its inputs, and weights that lie elsewhere, to the device on which it computes. Until then
such weights are on `meta`: what is asked of them outside of the module's own forward is asked inside `at_hand`.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import torch
from filelock import Timeout
from torch import nn
from transformers import PreTrainedModel

from knowfuse.locks import lock_file

FOLDER = "offload"  # in the cache


def input_device(model: nn.Module) -> torch.device:
    """Where the token ids that a model reads belong; its logits come back there."""
    device = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    return next(model.parameters()).device if device is None else torch.device(device)


@contextmanager
def at_hand(module: nn.Module) -> Iterator[None]:
    """Inside, the weights of this module are on the device on which it computes, wherever they lie otherwise."""
    if not hasattr(module, "_hf_hook"):
        yield
        return
    from accelerate.utils import align_module_device  # here: it takes two seconds to import

    with align_module_device(module):
        yield


def whereabouts(model: PreTrainedModel) -> str:
    """How many of its parts, of which a decoder layer is one, lie where."""
    places = getattr(model, "hf_device_map", {"": input_device(model)})  # all in one place: none
    names = {"cpu": "in the CPU's memory", "disk": "on disk"}
    counts = Counter(names.get(str(place), f"on GPU {place}") for place in places.values())
    return ", ".join(f"{count} {place}" for place, count in counts.items())


@contextmanager
def offload_folder(cache: Path, name: str) -> Iterator[Path]:
    """An empty folder in the cache, for weights that are not on disk as they are used; it is gone after the block.

    What a kill left is removed by the next that comes: its lock is free.
    """
    place = cache / FOLDER
    for left in place.glob("*.lock"):
        with suppress(Timeout), lock_file(left).acquire(timeout=0):
            _remove(left)
    with lock_file(place / f"{name}-{uuid4().hex}.lock") as lock:
        folder = Path(lock.lock_file).with_suffix("")
        try:
            folder.mkdir()
            yield folder
        finally:
            _remove(Path(lock.lock_file))


def _remove(lock: Path) -> None:
    """The folder of this lock, which the caller holds, and the lock."""
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink(missing_ok=True)
