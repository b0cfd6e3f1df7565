"""How does an LLM's own attention see one document of a packed block at a time?

Attention is registered with transformers under names of ours that call its own: where a block of several documents is
read, on the rows of each document alone, with the mask that transformers makes for a document of that length (none at all
where it is causal); in every other pass, as it is called. Sliding windows, chunks, sinks, soft caps and scales are so the
LLM's own, and a mask over a block is never made.

Source: transformers' AttentionInterface and AttentionMaskInterface.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

SUFFIX = "_by_document"
SERVED = ("sdpa", "eager")  # flash and flex attention find the documents of a row by themselves, from positions

_ENDS: ContextVar[Sequence[int]] = ContextVar("where each document of the row being read ends", default=())


@dataclass(frozen=True)
class DocumentMasks:
    """What every attention layer is given in place of a mask: the rows of each document, and its own mask, if any."""

    documents: tuple[tuple[slice, Tensor | None], ...]


def by_document(model: nn.Module) -> bool:
    """Whether the model's attention can be called a document at a time; it is made so, for good, where it can.

    It changes nothing of other passes, nor of what is saved.
    """
    assert isinstance(model, PreTrainedModel)
    chosen = model.config.get_text_config()._attn_implementation
    if str(chosen).endswith(SUFFIX):
        return True
    if chosen not in SERVED or not type(model)._can_set_attn_implementation():
        return False
    model.set_attn_implementation(f"{chosen}{SUFFIX}")
    return True


@contextmanager
def documents_ending(ends: Sequence[int]) -> Iterator[None]:
    """Inside, a model reads one row [1, T] of documents; each ends before the row that `ends` says, the last before T."""
    token = _ENDS.set(ends)
    try:
        yield
    finally:
        _ENDS.reset(token)


def _masks(make: Callable[..., Tensor | None], **asked: Any) -> Tensor | DocumentMasks | None:
    """The mask that `make` makes; of each document, at the places where it lies, while documents are read."""
    ends = _ENDS.get()
    if len(ends) < 2:
        return make(**asked)

    def mask(start: int, end: int) -> Tensor | None:
        place = {"q_length": end - start, "kv_length": end - start, "q_offset": start, "kv_offset": start}
        # transformers makes whole masks where it found several documents; of one it needs none that is only causal.
        is_causal = {"allow_is_causal_skip": not asked.get("use_vmap", False)}
        return make(**{**asked, **place, **is_causal})

    return DocumentMasks(tuple((slice(start, end), mask(start, end)) for start, end in pairwise((0, *ends))))


def _attend(
    attention: Callable[..., Any] | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | DocumentMasks | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of [1, heads, T, D] as [1, T, heads, D]; None is the eager one of the model's own file."""
    attend: Any = attention or sys.modules[type(module).__module__].eager_attention_forward
    if not isinstance(attention_mask, DocumentMasks):
        return attend(module, query, key, value, attention_mask, **options)
    said = [
        attend(module, query[:, :, rows], key[:, :, rows], value[:, :, rows], mask, **options)[0]
        for rows, mask in attention_mask.documents
    ]
    return torch.cat(said, dim=1), None


AttentionMaskInterface.register(f"sdpa{SUFFIX}", partial(_masks, sdpa_mask))
AttentionMaskInterface.register(f"eager{SUFFIX}", partial(_masks, eager_mask))
AttentionInterface.register(f"sdpa{SUFFIX}", partial(_attend, sdpa_attention_forward))
AttentionInterface.register(f"eager{SUFFIX}", partial(_attend, None))
