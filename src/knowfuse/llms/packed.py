"""How does an LLM read packed documents, each as if it were alone?"""

import inspect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from knowfuse.llms.by_document import by_document, documents_ending


def packed_logits(
    model: nn.Module,
    input_ids: Int[Tensor, "B T"],
    position_ids: Int[Tensor, "B T"],
    document_ids: Int[Tensor, "B T"],
) -> Float[Tensor, "B T V"]:
    """Logits of packed blocks, with attention inside each document only."""
    logits = read_packed(model, lambda **inputs: model(**inputs).logits, input_ids, position_ids, document_ids)
    return logits.unflatten(0, input_ids.shape)


def read_packed(
    model: nn.Module,
    read: Callable[..., Tensor],
    input_ids: Int[Tensor, "B T"],
    position_ids: Int[Tensor, "B T"],
    document_ids: Int[Tensor, "B T"],
    lengths: Sequence[int] | None = None,
) -> Float[Tensor, "N X"]:
    """What `read` makes of the inputs that let `model` read packed blocks, row by row; it calls the model with them.

    All documents lie in one row, one after another, and those of an LLM whose attention goes through transformers'
    interface are told apart by it: by ours a document at a time, by flash and flex attention from positions that start
    again. Other LLMs (MPT, Falcon) get a mask of who may look at whom, and positions where they have any.
    `lengths` are those of the documents of all rows, padding among them, where they are known already.
    """
    if not model._can_set_attn_implementation():  # pyright: ignore[reportCallIssue]
        mask = _document_mask(document_ids, next(model.parameters()).dtype)
        inputs = {"input_ids": input_ids, "attention_mask": mask, "use_cache": False}
        if "position_ids" in inspect.signature(model.forward).parameters:
            inputs["position_ids"] = position_ids
        return read(**inputs).flatten(0, 1)
    row: dict[str, Any] = {"input_ids": input_ids.reshape(1, -1), "position_ids": position_ids.reshape(1, -1)}
    ends: Sequence[int] = ()
    if by_document(model):
        ends = _ends(document_ids) if lengths is None else list(accumulate(lengths))
    with documents_ending(ends):
        return read(**row, use_cache=False)[0]


def _ends(document_ids: Int[Tensor, "B T"]) -> list[int]:
    """The places in all rows, one after another, before which a document or a stretch of padding ends."""
    is_last = torch.ones_like(document_ids, dtype=torch.bool)
    is_last[:, :-1] = document_ids[:, 1:] != document_ids[:, :-1]
    return (is_last.flatten().nonzero()[:, 0] + 1).cpu().tolist()


def _document_mask(document_ids: Int[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "B 1 T T"]:
    """0 where a token may look, the lowest value that bfloat16 holds too elsewhere; padding looks at itself, so no row is empty."""
    length = document_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids.device).tril()
    may_look = (document_ids[:, :, None] == document_ids[:, None]) & causal
    lowest = max(torch.finfo(dtype).min, torch.finfo(torch.bfloat16).min)
    return torch.zeros_like(may_look, dtype=dtype).masked_fill(~may_look, lowest)[:, None]
