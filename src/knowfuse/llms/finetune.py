"""Which parameters of the target learn: all of them, or low-rank adapters beside weights that stay as they are?

Adapters are put into the model in place, so that what trains, scores and saves is the PreTrainedModel itself. They are in
float32 whatever the LLM's dtype; a `trainer.precision` that ends in `-true` casts them with the rest.
Their random half (A; B is 0) is drawn from torch's generator, which a run seeds, the same on every rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from knowfuse.llms.local import LocalLLM
from knowfuse.llms.parts import beside_text, ends, experts_of, linear_layers
from knowfuse.types import LLMSpec

ADAPTER = "default"  # peft's own name
ALL_LINEAR = "all-linear"


def full(llm: LocalLLM) -> PreTrainedModel:
    """The LLM with all its parameters to be trained, but for what reads pictures, which no text reaches.

    ValueError for one in float16, or whose weights are quantised.
    """
    require_finetune(full, llm.spec, llm.name)
    model = llm.load()
    _require_whole(model, llm.name, "full")
    for parameter in beside_text(model):
        parameter.requires_grad_(False)
    return model


def lora(
    llm: LocalLLM, rank: int, alpha: float, dropout: float, target_modules: str | Sequence[str]
) -> PreTrainedModel:
    """The LLM frozen, with adapters `alpha / rank * B A` to be trained on its linear layers.

    `target_modules` are the last parts of their names, or `all-linear`, which is all of the text model but the LM head; experts
    that are slices of one tensor, and their routers, are none and stay as they are. `dropout` is on what goes into A.
    ValueError for an LLM in float16 or with quantised weights, for a layer that does not exist, and for adapters on
    embeddings, the LM head or experts.

    Source: LoRA, arXiv 2106.09685, section 4.1.
    """
    require_finetune(partial(lora, rank=rank, alpha=alpha, dropout=dropout), llm.spec, llm.name)
    model = llm.load()
    _require_whole(model, llm.name, "lora")
    return _with_adapters(model, llm.name, rank, alpha, dropout, target_modules)


def qlora(
    llm: LocalLLM, rank: int, alpha: float, dropout: float, target_modules: str | Sequence[str]
) -> PreTrainedModel:
    """As `lora`, the linear layers but the LM head in 4 bits (nf4), experts that are slices of one tensor as they are; all
    compute in the LLM's dtype.

    Source: QLoRA, arXiv 2305.14314, section 3. Differs: the constants of the 4-bit blocks are not quantised again.
    """
    require_finetune(partial(qlora, rank=rank, alpha=alpha, dropout=dropout), llm.spec, llm.name)
    model = replace(llm, spec=replace(llm.spec, quantization="4bit")).load()
    return _with_adapters(model, llm.name, rank, alpha, dropout, target_modules)


def require_finetune(finetune: Callable[..., Any], spec: LLMSpec, name: str) -> None:
    """ValueError if this function, or a partial of it, cannot train an LLM of this spec; it says what to set.

    Nothing is loaded: a run that cannot train is refused before its sources are read.
    """
    settings = finetune.keywords if isinstance(finetune, partial) else {}
    method = getattr(finetune.func if isinstance(finetune, partial) else finetune, "__name__", "")
    if method not in ("full", "lora", "qlora"):
        return
    if spec.dtype == "float16":
        raise ValueError(
            f"LLM {name!r} is to be trained in float16, where small gradients become 0: set its dtype to bfloat16 or float32"
        )
    if spec.quantization is not None and not (method == "qlora" and spec.quantization == "4bit"):
        raise ValueError(_quantised(name, spec.quantization, method))
    for key, is_right, wanted in (
        ("rank", lambda value: value >= 1, "at least 1"),
        ("alpha", lambda value: value > 0, "above 0"),
        ("dropout", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    ):
        if key in settings and not is_right(settings[key]):
            raise ValueError(f"finetune.{key} is {settings[key]}: it must be {wanted}")


def _quantised(name: str, how: str, method: str) -> str:
    """What is wrong with an LLM whose weights are quantised, where `method` was to train it."""
    return (
        f"the weights of LLM {name!r} are quantised ({how}), finetune={method} cannot train them: set finetune=qlora, "
        "whose base is in 4bit, or give an LLM without quantization"
    )


def _require_whole(model: PreTrainedModel, name: str, method: str) -> None:
    """ValueError for weights that are quantised in the LLM's own files."""
    if _is_packed(model):
        raise ValueError(_quantised(name, "in its own files", method))


def _with_adapters(
    model: PreTrainedModel,
    name: str,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: str | Sequence[str],
) -> PreTrainedModel:
    from peft import LoraConfig, inject_adapter_in_model  # here: it takes a second to import, and bitsandbytes with it

    layers = [f"model.{layer}" for layer in adapted_layers(model, name, target_modules)]
    options = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout}
    inject_adapter_in_model(LoraConfig(**options, target_modules=layers), _Unnamed(model), ADAPTER)
    for layer in adapters(model).values():
        for part in (layer.lora_A, layer.lora_B):
            part.float()  # small steps would be lost in bfloat16
    return model


class _Unnamed(nn.Module):
    """A model without its configuration, by whose name peft would put other adapters into it.

    Of two architectures of experts it takes tensors of three dimensions for the linear layers that they once were, whose
    adapters can be neither sharded nor merged here; the layers that are named are those that have adapters.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.is_loaded_in_4bit = getattr(model, "is_loaded_in_4bit", False)


def adapted_layers(model: PreTrainedModel, name: str, targets: str | Sequence[str]) -> list[str]:
    """Names of the layers that `target_modules` means; ValueError where one is none, or cannot have an adapter."""
    linear, head, experts = linear_layers(model), model.get_output_embeddings(), experts_of(model)
    asked = [targets] if isinstance(targets, str) else list(targets)
    if targets == ALL_LINEAR:
        return [layer for layer, module in linear.items() if module is not head]
    found: list[str] = []
    for target in asked:
        meant = {layer: m for layer, m in model.named_modules() if ends(layer, target)}
        for layer, module in meant.items():
            if module is head or isinstance(module, nn.Embedding):
                raise ValueError(
                    f"LLM {name!r} would have adapters on {layer!r}, an embedding or its LM head, which stay as they are: leave "
                    "it out of finetune.target_modules"
                )
        if experts is not None and (tensor := experts.named(target)):
            raise ValueError(
                f"LLM {name!r} takes no adapters on finetune.target_modules={asked}: {target!r} names its experts, which are no "
                f"linear layers but slices of one tensor ({tensor}): leave it out (they stay as they are), or set finetune=full"
            )
        of_target = [layer for layer in meant if layer in linear]
        if not of_target:
            there = sorted({layer.rpartition(".")[-1] for layer, module in linear.items() if module is not head})
            raise ValueError(
                f"LLM {name!r} takes no adapters on finetune.target_modules={asked}: a linear layer {target!r} is not found in its "
                f"text model; it has {', '.join(there)}"
            )
        found += of_target
    return [layer for layer in linear if layer in found]


def adapters(model: nn.Module) -> dict[str, Any]:
    """The layers that have an adapter, by name; none of an LLM that is trained in full."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def _is_packed(model: nn.Module) -> bool:
    """Whether some weights are quantised, several in a byte."""
    return not all(parameter.is_floating_point() for parameter in model.parameters())


def what_learns(model: nn.Module) -> str:
    """What is trained of the model, for a reader: layers, and shares of its parameters; which experts stay as they are."""
    layers, experts = adapters(model), experts_of(model)
    count = sum(map(_size, model.parameters()))
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    named = ", ".join(sorted({name.rpartition(".")[-1] for name in layers}))
    where = f"adapters on {len(layers)} layers ({named})" if layers else "its text model"
    said = f"{where}, {learnt / count:.2%} of {count / 1e6:,.1f} M parameters"
    if experts is None or not layers:
        return said
    how = ", not quantised" if _is_packed(model) else ""
    return (
        f"{said}; the {experts.number} experts in each of {experts.layers} layers, {experts.parameters / count:.1%} of the "
        f"parameters, stay as they are{how}"
    )


def _size(parameter: nn.Parameter) -> int:
    """Numbers that a parameter stands for; of a quantised one, as many as it was made of."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def finetune_of(model: nn.Module) -> str:
    """What is trained of the model, as the settings that make it so; dropout, which fits any adapter, is not among them."""
    layers = adapters(model)
    if not layers:
        return "finetune=full"
    first = next(iter(layers.values()))
    named = ",".join(sorted({name.rpartition(".")[-1] for name in layers}))
    return (
        f"finetune={'qlora' if _is_packed(model) else 'lora'} finetune.rank={first.r[ADAPTER]} finetune.alpha={first.lora_alpha[ADAPTER]:g} "
        f"finetune.target_modules=[{named}]"
    )


def merged(llm: LocalLLM, model: PreTrainedModel) -> PreTrainedModel:
    """The trained model without adapters, ready for `save_pretrained`; itself, where it has none.

    A new model: the LLM as its files have it, not quantised, in its own dtype, `alpha / rank * B A` added in float32. After
    `qlora` it is so not quite what was trained, beside weights of 4 bits. ValueError where the LLM's own files are quantised.

    Source: LoRA, arXiv 2106.09685, section 4.1.
    """
    layers = adapters(model)
    if not layers:
        return model
    whole = replace(llm, spec=replace(llm.spec, quantization=None)).load()
    if _is_packed(whole):
        raise ValueError(
            f"the files of LLM {llm.name!r} are quantised, adapters cannot be merged into them: train on the LLM they were "
            "made from"
        )
    with torch.no_grad():
        for name, layer in layers.items():
            weight = whole.get_submodule(name).weight
            assert isinstance(weight, torch.Tensor)
            delta = layer.get_delta_weight(ADAPTER)  # pyright: ignore[reportAttributeAccessIssue]  (of every linear one)
            weight.copy_(weight.float() + delta.to(weight.device, torch.float32))
    return whole
