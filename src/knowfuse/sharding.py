"""How is a causal LM of transformers split over GPUs? FSDP2, one group per decoder layer and the rest at the root."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers of any causal LM of transformers: its longest ModuleList.

    ValueError where a model has none.
    """
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) > 0]
    if not lists:
        raise ValueError(
            f"{type(model).__name__} has no list of decoder layers to shard: use trainer=gpu or trainer=cpu"
        )
    return max(lists, key=lambda m: (len(m), sum(p.numel() for p in m.parameters())))


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Turn the model's parameters into shards over `mesh`, in place; they are gathered layer by layer as they are used."""
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
