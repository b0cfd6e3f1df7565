"""How does an LLM read packed documents, each as if it were alone?"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def packed_logits(
    model: nn.Module,
    input_ids: Int[Tensor, "B T"],
    position_ids: Int[Tensor, "B T"],
    document_ids: Int[Tensor, "B T"],
) -> Float[Tensor, "B T V"]:
    """Logits of packed blocks, with attention inside each document only."""
    return model(**packed_inputs(model, input_ids, position_ids, document_ids)).logits


def packed_inputs(
    model: nn.Module,
    input_ids: Int[Tensor, "B T"],
    position_ids: Int[Tensor, "B T"],
    document_ids: Int[Tensor, "B T"],
) -> dict[str, Any]:
    """What a model is called with to read packed blocks.

    The mask is explicit, since not every architecture derives it from position ids; those that have no position ids
    (ALiBi) get none, their biases depend on distances alone.
    """
    mask = _document_mask(document_ids, next(model.parameters()).dtype)
    positions: dict[str, Any] = {} if _has_alibi(model) else {"position_ids": position_ids}
    return {"input_ids": input_ids, "attention_mask": mask, "use_cache": False, **positions}


def _has_alibi(model: nn.Module) -> bool:
    return getattr(model.config, "model_type", None) == "mpt"


def _document_mask(document_ids: Int[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "B 1 T T"]:
    """0 where a token may look, the lowest value that bfloat16 holds too elsewhere; padding looks at itself, so no row is empty."""
    length = document_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids.device).tril()
    may_look = (document_ids[:, :, None] == document_ids[:, None]) & causal
    lowest = max(torch.finfo(dtype).min, torch.finfo(torch.bfloat16).min)
    return torch.zeros_like(may_look, dtype=dtype).masked_fill(~may_look, lowest)[:, None]


def require_isolated_documents(model: nn.Module, vocabulary_size: int) -> None:
    """ValueError if a document can see its neighbour in a packed block of this model (a recurrent one, for example)."""
    device = next(model.parameters()).device
    ids = torch.arange(1, 9, device=device)[None] % vocabulary_size
    changed = ids.clone()
    changed[0, :4] = (changed[0, :4] + 3) % vocabulary_size
    documents = torch.tensor([[1] * 4 + [2] * 4], device=device)
    positions = torch.arange(4, device=device).repeat(2)[None]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            one, other = (packed_logits(model, x, positions, documents)[0, 4:].float() for x in (ids, changed))
    except (RuntimeError, TypeError, ValueError) as error:  # a shape or an argument that its forward does not know
        raise ValueError(
            f"{type(model).__name__} does not take a mask of who may look at whom ({error}): "
            "it cannot be a target with packing"
        ) from error
    model.train(was_training)
    if not bool(torch.isfinite(torch.cat([one, other])).all()):
        raise ValueError(f"the logits of {type(model).__name__} are NaN or infinite: check its weights and dtype")
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{type(model).__name__} lets a document see its neighbour in a packed block (logits move by "
            f"{(one - other).abs().max():.3g}): it cannot be a target with packing"
        )
