"""How are the logits of a few rows asked for, when those of all would not fit?"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

PROBE_TOKENS = 8


class _Said(BaseModelOutputWithPast):
    """A body's output of which only the last hidden state is known."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return None


class _Body(nn.Module):
    """Stands in for an LLM's body: says the hidden states that it was given."""

    hidden: Tensor

    def forward(self, *arguments: Any, **options: Any) -> _Said:
        return _Said(last_hidden_state=self.hidden)


@dataclass
class Head:
    """An LLM in two halves: `body(input_ids=...)[0]` are hidden states, the head makes logits of any rows of them.

    The head is the LLM's own forward with the body's work done before, so whatever it does after the body is done:
    caps, scales, biases, norms.
    """

    model: PreTrainedModel
    body: nn.Module
    name: str | None  # of the body in the model; None where the two cannot be told apart: the body makes the logits

    def __call__(self, hidden: Float[Tensor, "N H"]) -> Float[Tensor, "N V"]:
        if self.name is None:
            return hidden
        stand_in = getattr(self.model, self.name)
        stand_in.hidden = hidden[None]
        ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        return self.model(input_ids=ids, use_cache=False).logits[0]


@contextmanager
def head_of(model: PreTrainedModel) -> Iterator[Head]:
    """The halves of an LLM, which is whole again afterwards.

    Checked on a few tokens; where the halves do not make the logits of the whole, it is warned that the logits of a
    batch are made at once.
    """
    name = model.base_model_prefix
    body = getattr(model, name, None)
    whole = _probe(model)
    if not isinstance(body, nn.Module):
        body = None
    else:
        setattr(model, name, _Body())
    try:
        if body is not None and _makes(Head(model, body, name), whole):
            yield Head(model, body, name)
            return
    finally:
        if body is not None:
            setattr(model, name, body)
    warnings.warn(
        f"{type(model).__name__} cannot be cut before its head: the logits of a batch are made at once", stacklevel=2
    )
    yield Head(model, model, None)


def _probe(model: PreTrainedModel) -> Tensor:
    return model(input_ids=_probe_ids(model), use_cache=False).logits[0]


def _makes(head: Head, whole: Tensor) -> bool:
    """Whether the halves make these logits."""
    try:
        logits = head(head.body(input_ids=_probe_ids(head.body), use_cache=False)[0][0])
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # a forward of another shape
        return False
    return logits.shape == whole.shape and torch.allclose(logits, whole, rtol=1e-2, atol=1e-2, equal_nan=True)


def _probe_ids(model: nn.Module) -> Tensor:
    return torch.arange(1, PROBE_TOKENS, device=next(model.parameters()).device)[None] % 5
