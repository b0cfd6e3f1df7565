"""How is a causal LM of transformers split over GPUs? FSDP2, one group per decoder layer and the rest at the root."""

import os
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer

from knowfuse.files import swap
from knowfuse.llms.parts import decoder_layers
from knowfuse.settings import require_choices

ComputeDtype = Literal["float32", "bfloat16"]


class FSDP2(ModelParallelStrategy):
    """Every rank holds its shard of each parameter, gradient and optimizer state, in float32; there is no other parallelism.

    `compute_dtype` is that of the gathered weights and the activations; gradients are summed over the ranks in float32.
    Checkpoints are folders with one file per rank, or single files with `save_distributed_checkpoint=False`; a kill leaves
    the old one or the new one, whole.
    """

    def __init__(
        self, compute_dtype: ComputeDtype = "float32", save_distributed_checkpoint: bool = True, **options: Any
    ) -> None:
        super().__init__(save_distributed_checkpoint=save_distributed_checkpoint, **options)
        require_choices(FSDP2.__init__, {"compute_dtype": compute_dtype})
        self.compute_dtype: ComputeDtype = compute_dtype
        self.writes_shards = save_distributed_checkpoint

    def setup_environment(self) -> None:
        """All ranks share the data; left alone, Lightning would take those of a node for one, and average nothing."""
        if (precision := self.precision_plugin.precision) != "32-true":
            raise ValueError(
                f"trainer.precision is {precision!r}, which would cast the float32 shards and the fused target: leave it at "
                "32-true, and set trainer.strategy.compute_dtype=bfloat16"
            )
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Beside its place first: shards written over the last checkpoint's would spoil it if they stayed unfinished."""
        if not self._save_distributed_checkpoint:  # Lightning moves a file into its place
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        path = Path(self.broadcast(os.fspath(filepath)))
        unfinished = path.with_name(f"{path.name}.part")
        if self.is_global_zero:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.barrier()
        super().save_checkpoint(checkpoint, unfinished, storage_options)
        self.barrier()
        if self.is_global_zero:
            swap(unfinished, path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """From shards of any number of ranks, or from one file, of another strategy too.

        In a file the optimizer's parameters are numbers, in the order of its groups; Lightning takes them for the model's
        order, and would give a parameter another's state.
        """
        path = Path(self.broadcast(os.fspath(checkpoint_path)))
        if path.is_dir():
            return super().load_checkpoint(path, weights_only)
        assert self.model is not None
        checkpoint = torch.load(path, mmap=True, map_location="cpu", weights_only=weights_only)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = _by_name(saved, optimizer, self.model)
            set_optimizer_state_dict(self.model, optimizer, named, options=options)
        return checkpoint


def _by_name(saved: dict[str, Any], optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """A saved optimizer state whose parameters have the names that those in their places have in the model."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    by_number = {
        number: name
        for was, now in zip(saved["param_groups"], groups, strict=True)
        for number, name in zip(was["params"], now, strict=True)
    }
    return {
        "state": {by_number[number]: state for number, state in saved["state"].items()},
        "param_groups": [{**was, "params": now} for was, now in zip(saved["param_groups"], groups, strict=True)],
    }


def require_shardable(optimizer: object) -> None:
    """ValueError for an optimizer class that cannot update parameters in shards."""
    if isinstance(optimizer, type) and optimizer.__module__.startswith("bitsandbytes."):
        raise ValueError(
            f"optimizer {optimizer.__name__} of bitsandbytes cannot update parameters that FSDP2 keeps in shards: set "
            "optimizer=adamw, whose state is in shards too, or trainer=gpu"
        )


def shard(model: nn.Module, mesh: DeviceMesh, compute_dtype: ComputeDtype = "float32") -> None:
    """Turn the model's parameters into float32 shards over `mesh`, in place; they are gathered layer by layer as they are used.

    Gathered weights are in `compute_dtype`, and so is the attention mask; biases of positions between the layers (ALiBi)
    stay as the model makes them. Quantised weights are cut as they are; ValueError for them on GPUs, where nobody has tried
    it, and with another compute dtype, to which they would be cast.
    """
    quantised = [name for name, p in model.named_parameters() if not p.is_floating_point()]
    if quantised and (mesh.device_type != "cpu" or compute_dtype != "float32"):
        raise ValueError(
            f"{quantised[0]} of {type(model).__name__} is quantised, and in shards only on CPUs in float32: use finetune=lora, "
            "or trainer=ddp or trainer=gpu, where every GPU holds all of it"
        )
    dtype = None if compute_dtype == "float32" else getattr(torch, compute_dtype)
    inside, root = (
        MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=casts)
        for casts in (False, True)
    )
    for layer in decoder_layers(model):  # one at a time becomes float32, and then small
        fully_shard(layer.float(), mesh=mesh, mp_policy=inside)
    nn.Module.float(model)  # transformers' own refuses where some weights are quantised, which this leaves alone
    fully_shard(model, mesh=mesh, mp_policy=root)
