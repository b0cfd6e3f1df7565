"""Where does an LLM's body end and its LM head begin, so that the loss can have the hidden states instead of logits?

The model's own forward runs, its head called with no rows: whatever a model does before the head is done, and under
FSDP2 the root's hooks run too, which leave the head's weight whole until the backward pass.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PretrainedConfig, PreTrainedModel

from knowfuse.llms.attention import reading_anywhere
from knowfuse.llms.dispatched import at_hand, input_device
from knowfuse.llms.packed import read_packed
from knowfuse.losses import CHUNK_ROWS, LinearHead, head_logits, token_nll

# What configurations call them; whether a scale multiplies or divides, the model's own logits say.
SOFT_CAPS = ("final_logit_softcapping",)
SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
PROBE_LOGIT = 50.0  # where soft caps bend


@dataclass
class OutputHead:
    """A model's LM head, and what the model does with its output; rows from `vocabulary_size` on are padding."""

    module: nn.Linear
    soft_cap: float | None
    scale: float
    vocabulary_size: int

    def linear(self) -> LinearHead:
        """With the weights as they are now; after a forward pass, where they are in shards otherwise."""
        assert not isinstance(self.module.weight, DTensor), "the root of the model was not gathered, or not kept whole"
        return LinearHead(self.module.weight, self.module.bias, self.soft_cap, self.scale, self.vocabulary_size)


def packed_hidden_states(
    model: nn.Module,
    head: OutputHead,
    input_ids: Int[Tensor, "B T"],
    position_ids: Int[Tensor, "B T"],
    document_ids: Int[Tensor, "B T"],
    lengths: Sequence[int] | None = None,
) -> Float[Tensor, "B T H"]:
    """What the head would turn into the logits of packed blocks; `packed.packed_logits` without its last product."""

    def read(**inputs: Any) -> Tensor:
        return _hidden_states(model, head.module, **inputs)

    return read_packed(model, read, input_ids, position_ids, document_ids, lengths).unflatten(0, input_ids.shape)


def hidden_states(model: nn.Module, head: OutputHead, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T H"]:
    """What the head would turn into the logits of rows of one document each, padded on the right."""
    return _hidden_states(model, head.module, input_ids=input_ids, use_cache=False)


@dataclass
class RowLogits:
    """An LLM that makes the logits of any rows of what it read, a few at a time.

    Without a `head` that is known, it makes those of all rows at once, and they stand in for the hidden states.
    """

    model: PreTrainedModel
    head: OutputHead | None

    def read(self, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T H"]:
        """What `logits` takes rows of, on the device of the head."""
        if self.head is None:
            return self.model(input_ids=input_ids, use_cache=False).logits
        hidden = _hidden_states(self.model, self.head.module, input_ids=input_ids, use_cache=False)
        return hidden.to(input_device(self.head.module))

    def logits(self, hidden: Float[Tensor, "N H"], at_once: int) -> Iterator[Float[Tensor, "n V"]]:
        """Of so many rows after another, without gradient; rows of padding of the vocabulary too."""
        if self.head is None:
            yield from hidden.split(at_once)
            return
        with at_hand(self.head.module):
            head = self.head.linear()
            for rows in hidden.split(at_once):
                yield head_logits(rows, head)

    def token_nll(self, hidden: Float[Tensor, "N H"], labels: Int[Tensor, " N"]) -> Float32[Tensor, " N"]:
        """Nats of each label, without gradient; 0 on rows without one."""
        chunks = zip(self.logits(hidden, CHUNK_ROWS), labels.to(hidden.device).split(CHUNK_ROWS), strict=True)
        return torch.cat([token_nll(logits, wanted) for logits, wanted in chunks])

    def label_nll(self, input_ids: Int[Tensor, "B T"], labels: Int[Tensor, "B T"]) -> Float32[Tensor, "B T"]:
        """Nats of each label of documents that stand in rows, one in each, padded on the right."""
        return self.token_nll(self.read(input_ids).flatten(0, 1), labels.flatten()).view(labels.shape)


def row_logits(model: PreTrainedModel) -> RowLogits:
    """Of an LLM that only reads; it is warned where the logits of a batch have to be made at once."""
    try:
        return RowLogits(model, output_head(model, sys.maxsize))
    except ValueError as reason:
        warnings.warn(f"the logits of a batch are made at once: {reason}", stacklevel=2)
        return RowLogits(model, None)


def _hidden_states(model: nn.Module, head: nn.Linear, **inputs: Any) -> Float[Tensor, "B T H"]:
    seen = []

    def keep(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        seen.append(arguments[0])
        return (arguments[0][:, :0],)

    with head.register_forward_pre_hook(keep):
        model(**inputs)
    return seen[0]


def output_head(model: PreTrainedModel, tokens: int) -> OutputHead:
    """The head of a model whose tokenizer has so many tokens; ValueError for a model whose logits we could not remake.

    Whether its output is capped or scaled is asked of the model itself, on a tiny input.
    """
    module = model.get_output_embeddings()
    name = type(model).__name__
    if not isinstance(module, nn.Linear):
        raise ValueError(f"{name} has no linear LM head ({type(module).__name__}): it cannot be a target")
    if not module.weight.is_floating_point():
        raise ValueError(
            f"the LM head of {name} is quantised (its weight is {module.weight.dtype}) and cannot be trained: leave it out "
            "of the quantisation (llm_int8_skip_modules), or load the LLM without"
        )
    if type(module).forward is not nn.Linear.forward:
        raise ValueError(
            f"the LM head of {name} is a {type(module).__name__}, whose output is not that of its weight alone: it cannot "
            "be a target; merge an adapter into it, or put it on the other layers"
        )
    probe, logits = _probe(model, module)
    heads = [
        OutputHead(module, cap, scale, min(tokens, len(module.weight)))
        for cap, scale in product(*_settings(model.config.get_text_config()))
    ]
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(f"the logits of {name} are NaN or infinite: check its weights and dtype")
    largest = logits.abs().max().clamp(min=torch.finfo(logits.dtype).tiny)
    with at_hand(module):
        differences = [float((head_logits(probe, h.linear()) - logits).abs().max() / largest) for h in heads]
    best = min(differences)
    if not best <= (
        1e-3 if module.weight.dtype == torch.float32 else 2e-2
    ):  # sums in another order, TF32; half precision
        raise ValueError(
            f"the logits of {name} are not those of its head, scaled and soft-capped as its configuration says (they differ by "
            f"{best:.2g} of the largest): it cannot be a target"
        )
    return heads[differences.index(best)]


def _settings(config: PretrainedConfig) -> tuple[list[float | None], list[float]]:
    """The soft caps and the scales that a configuration can mean; none and 1 first."""
    caps, scales = ([v for key in keys if (v := getattr(config, key, None))] for keys in (SOFT_CAPS, SCALES))
    scales = [float(v) for v in scales if isinstance(v, int | float)]
    return [None, *caps], [1.0, *scales, *(1.0 / v for v in scales)]


def _probe(model: PreTrainedModel, head: nn.Linear) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N V"]]:
    """Hidden states that give logits up to `PROBE_LOGIT`, and what the model makes of them."""
    seen = []

    def enlarge(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        hidden = arguments[0].to(input_device(head))
        with at_hand(head):
            largest = nn.functional.linear(hidden, head.weight, head.bias).abs().max()
        seen.append(hidden * (PROBE_LOGIT / largest) if largest > 0 else hidden)
        return (seen[-1],)

    ids = torch.arange(1, 9, device=input_device(model))[None] % len(head.weight)
    was_training = model.training
    model.eval()
    with torch.no_grad(), reading_anywhere(model), head.register_forward_pre_hook(enlarge):
        logits = model(input_ids=ids, use_cache=False).logits
    model.train(was_training)
    if len(seen) != 1 or seen[0].shape[:2] != logits.shape[:2]:
        raise ValueError(
            f"{type(model).__name__} calls its LM head {len(seen)} times, not once on all tokens: it cannot be a target"
        )
    logits = logits.to(seen[0].device)
    return seen[0].flatten(0, 1), logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
