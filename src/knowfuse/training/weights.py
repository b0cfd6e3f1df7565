"""How do the weights of a checkpoint come into a module? In place, whatever is whole and whatever is in shards."""

import warnings
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.fsdp import FSDPModule

from knowfuse.training.target import TargetModule

PREFIX = "state_dict."  # of the weights among all that a checkpoint in shards holds


def load_weights(module: TargetModule, checkpoint: Path) -> None:
    """From one file, or from the shards of any number of ranks; without another copy of the weights in memory.

    The model must be there, whole or in shards; in shards, all ranks call this together. ValueError for weights that are
    not those of this module.
    """
    if checkpoint.is_dir():
        _load_shards(module, checkpoint)
        return
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    if isinstance(module.network, FSDPModule):
        set_model_state_dict(module, saved, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    else:
        module.load_state_dict(saved)


def _load_shards(module: TargetModule, checkpoint: Path) -> None:
    reader = FileSystemReader(checkpoint)
    names = reader.read_metadata().state_dict_metadata
    module.require_weights(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # then this process reads all
        is_whole = not isinstance(module.network, FSDPModule)  # and another rank may be elsewhere
        load_shards({"state_dict": module.state_dict()}, storage_reader=reader, no_dist=is_whole)
