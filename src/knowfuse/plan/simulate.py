"""What does one pass of an LLM hold in memory and compute? Its own code runs on tensors that have shapes and no data."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers import PreTrainedModel

from knowfuse.llms.head import OutputHead, hidden_states, packed_hidden_states
from knowfuse.llms.isolation import Packing
from knowfuse.llms.local import checkpoint_activations
from knowfuse.llms.parts import decoder_layers, is_linear

aten = torch.ops.aten
# A CPU's attention is not among the operators whose work torch knows.
FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(
        grad.shape, q.shape, k.shape, v.shape
    ),
}


@dataclass(frozen=True)
class Size:
    """The parameters of an LLM, tied ones once."""

    parameters: int
    trained: int
    layer: int  # parameters of its largest decoder layer
    root: int  # parameters outside its decoder layers
    trained_root: int
    linear: int  # parameters in the linear layers of its decoder layers, which a quantisation makes small; not in stacked experts
    matrix: int  # parameters of the largest of them
    largest: int  # parameters of its largest tensor
    tensors: int  # trained
    vocabulary: int  # rows of the head
    hidden: int
    is_head_trained: bool
    has_soft_cap: bool


@dataclass(frozen=True)
class PassUse:
    """What a pass holds beside weights and inputs, in bytes, and what it computes; the head and the loss are not in it."""

    at_loss: int  # alive where the loss is computed
    at_backward: int  # alive where the backward pass begins
    peak: int  # of activations and of what is made on the way, where it is largest with the gradients
    peak_gradients: int  # gradients at that moment, of those that the pass made
    forward_peak: int
    forward_flops: int
    flops: int  # forward and backward, a layer that is computed twice counted twice


class Alive(TorchDispatchMode):
    """Counts the bytes of the storages that operators make, as long as they live, and what the operators compute.

    `known` storages do not count.
    """

    def __init__(self, known: Iterator[Tensor]) -> None:
        super().__init__()
        self.known = {_key(t) for t in known}
        self.live: dict[int, tuple[weakref.ref[Any], int, bool]] = {}
        self.now, self.gradients, self.flops = 0, 0, 0
        self.peak, self.peak_gradients = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if work := FLOPS.get(func.overloadpacket):
            self.flops += work(*args, **kwargs, out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        key = _key(tensor)
        if key in self.known or key in self.live:
            return
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self.live[key] = (weakref.ref(storage, lambda _: self._remove(key)), size, False)
        self.now += size
        if self.now > self.peak:
            self.peak, self.peak_gradients = self.now, self.gradients

    def _remove(self, key: int) -> None:
        _, size, is_gradient = self.live.pop(key)
        self.now -= size
        self.gradients -= size * is_gradient

    def is_gradient(self, parameter: Tensor) -> None:
        """The gradient of this parameter is one that stays."""
        assert parameter.grad is not None
        key = _key(parameter.grad)
        if key in self.live and not self.live[key][2]:
            reference, size, _ = self.live[key]
            self.live[key] = (reference, size, True)
            self.gradients += size

    def start_again(self) -> None:
        """The peak is that of what follows."""
        self.peak, self.peak_gradients = self.now, self.gradients


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def size_of(model: PreTrainedModel) -> Size:
    """Numbers of parameters, of the model as it is trained: frozen parts and adapters are told apart."""
    layers = decoder_layers(model)
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    in_layers = {id(p) for p in layers.parameters()}
    root = [p for p in model.parameters() if id(p) not in in_layers]
    linear = [m.weight for m in layers.modules() if is_linear(m) and isinstance(m.weight, nn.Parameter)]
    frozen_matrices = [weight.numel() for weight in linear if not weight.requires_grad]
    config = model.config.get_text_config()
    return Size(
        parameters=_count(model.parameters()),
        trained=_count(p for p in model.parameters() if p.requires_grad),
        layer=max(_count(layer.parameters()) for layer in layers),
        root=_count(iter(root)),
        trained_root=_count(p for p in root if p.requires_grad),
        linear=sum(frozen_matrices),
        matrix=max(frozen_matrices, default=0),
        largest=max(p.numel() for p in model.parameters()),
        tensors=sum(1 for p in model.parameters() if p.requires_grad),
        vocabulary=len(head.weight),
        hidden=head.weight.shape[1],
        is_head_trained=bool(head.weight.requires_grad),
        has_soft_cap=bool(getattr(config, "final_logit_softcapping", None)),
    )


def _count(parameters: Iterator[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def training_pass(
    model: PreTrainedModel,
    packing: Packing,
    blocks: int,
    tokens: int,
    document_tokens: int,
    *,
    autocast: torch.dtype | None,
    is_checkpointed: bool,
    keeps_gradients: bool,
) -> PassUse:
    """Forward and backward of blocks [B, T] up to the hidden states before the head, inside `shapes_only`.

    The documents in them have `document_tokens`, the last of a block what is left; one a row, there are as many rows as fill
    the blocks.
    `keeps_gradients`: those of an earlier batch are there already (outside the figures), and new ones are added to them.
    """
    model.train()
    if is_checkpointed:
        checkpoint_activations(model)
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter) if keeps_gradients else None
    ids, lengths = _documents(packing, blocks, tokens, document_tokens)
    known = [*model.parameters(), *model.buffers(), *(p.grad for p in trained if p.grad is not None), ids]
    alive = Alive(iter(known))
    hooks = [p.register_post_accumulate_grad_hook(alive.is_gradient) for p in trained]
    with alive:
        # As Lightning does: its autocast keeps no copies of weights beyond their use.
        with torch.autocast("cpu", autocast, enabled=autocast is not None, cache_enabled=False):
            hidden = _up_to_head(model, head, packing, ids, lengths)
            at_loss, forward_peak, forward_flops = alive.now, alive.peak, alive.flops
        at_backward = alive.now
        alive.start_again()
        if head.weight.requires_grad and not keeps_gradients:
            head.weight.grad = torch.empty_like(head.weight)
            alive.is_gradient(head.weight)
        if hidden.requires_grad:
            gradient = torch.empty_like(hidden)
            kept = [hidden]
            del hidden
            torch.autograd.backward(kept.pop(), gradient)
    for hook in hooks:
        hook.remove()
    return PassUse(
        at_loss=at_loss,
        at_backward=at_backward,
        peak=alive.peak - alive.peak_gradients,
        peak_gradients=alive.peak_gradients,
        forward_peak=forward_peak,
        forward_flops=forward_flops,
        flops=alive.flops,
    )


def _documents(packing: Packing, blocks: int, tokens: int, document_tokens: int) -> tuple[Tensor, list[int]]:
    """Ids of rows of blocks or of documents, and how long each document of the blocks is."""
    shape = (blocks, tokens) if packing == "blocks" else (blocks * max(1, tokens // document_tokens), document_tokens)
    lengths = [min(document_tokens, tokens - start) for start in range(0, tokens, document_tokens)] * blocks
    return torch.zeros(shape, dtype=torch.int64), lengths


def _up_to_head(
    model: PreTrainedModel, head: nn.Linear, packing: Packing, ids: Tensor, lengths: Sequence[int]
) -> Tensor:
    """The hidden states of all rows, one after another."""
    probed = OutputHead(head, None, 1.0, 0)
    if packing == "blocks":
        return packed_hidden_states(model, probed, ids, ids, ids, lengths).flatten(0, 1)
    return hidden_states(model, probed, ids).flatten(0, 1)


def reading_pass(model: PreTrainedModel, documents: int, tokens: int) -> PassUse:
    """Forward of documents [B, T] without gradient, as a source reads them, inside `shapes_only`."""
    model.eval()
    ids = torch.zeros(documents, tokens, dtype=torch.int64)
    alive = Alive(iter([*model.parameters(), *model.buffers(), ids]))
    with torch.no_grad(), alive:
        hidden = model.base_model(input_ids=ids, use_cache=False)[0]
        at_loss = alive.now
    del hidden
    flops = alive.flops
    return PassUse(at_loss, at_loss, alive.peak, 0, alive.peak, flops, flops)
