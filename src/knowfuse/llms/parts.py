"""What is an LLM made of? Its text model, decoder layers, linear layers, and experts, as the model itself says."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def text_model(model: nn.Module) -> nn.Module:
    """The part that reads text, of an LLM that reads pictures too; of any other all of it but its head, or all."""
    return model.get_decoder() if isinstance(model, PreTrainedModel) else model


def beside_text(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """The parameters of an LLM that reads pictures or sounds too, of what reads those; of any other none."""
    if model.config is model.config.get_text_config():
        return
    head = model.get_output_embeddings()
    of_text = {id(p) for part in (text_model(model), head) if part is not None for p in part.parameters()}
    yield from (p for p in model.parameters() if id(p) not in of_text)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers of any causal LM of transformers: the longest ModuleList of its text model.

    ValueError where a model has none.
    """
    lists = [m for m in text_model(model).modules() if isinstance(m, nn.ModuleList) and len(m) > 0]
    if not lists:
        raise ValueError(
            f"{type(model).__name__} has no list of decoder layers to shard: use trainer=gpu or trainer=cpu"
        )
    return max(lists, key=lambda m: (len(m), sum(p.numel() for p in m.parameters())))


def is_linear(module: nn.Module) -> bool:
    """A product with one matrix, and no more, quantised or not: what takes an adapter, and what a quantisation makes small."""
    return type(module) in (nn.Linear, Conv1D) or type(module).__module__.startswith("bitsandbytes.")


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Those of the text model, by their names in the model."""
    inside = {id(m) for m in text_model(model).modules()}
    return {name: m for name, m in model.named_modules() if id(m) in inside and is_linear(m)}


@dataclass(frozen=True)
class Experts:
    """Those of a mixture of experts that are no layers of their own, but slices of tensors of three dimensions."""

    tensors: dict[str, nn.Parameter]  # by their names
    number: int  # in a layer
    layers: int

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.tensors.values())

    def named(self, target: str) -> str | None:
        """The first that a name of a layer, or its last parts, means; None where it means none."""
        return next(
            (name for name in self.tensors if any(ends(part, target) for part in (name, name.rpartition(".")[0]))), None
        )


def experts_of(model: nn.Module) -> Experts | None:
    """None for an LLM that has none, or whose experts are linear layers."""
    layers = decoder_layers(model)
    of_layers = {id(p) for p in layers.parameters()}
    stacked = {
        f"{place}.{name}": parameter
        for place, module in model.named_modules()
        if not isinstance(module, nn.modules.conv._ConvNd)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and len(parameter) > 1 and id(parameter) in of_layers
    }
    if not stacked:
        return None
    ids = {id(p) for p in stacked.values()}
    having = sum(any(id(p) in ids for p in layer.parameters()) for layer in layers)
    return Experts(stacked, max(len(p) for p in stacked.values()), having)


def ends(name: str, target: str) -> bool:
    """Whether a name, or its last parts, is this."""
    return name == target or name.endswith(f".{target}")
