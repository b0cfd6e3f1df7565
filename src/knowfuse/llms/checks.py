"""What must hold of a model before it reads? That it is causal, and that it has a row for every token."""

import torch
from torch import nn
from transformers import PreTrainedModel

from knowfuse.llms.attention import reading_anywhere
from knowfuse.llms.dispatched import input_device
from knowfuse.surface import require_rows
from knowfuse.surface.loading import reason


def require_causal(model: PreTrainedModel, name: str) -> None:
    """ValueError if what comes later moves what the model says before it (an encoder with an LM head, for example).

    Both texts are in one batch: what a quantised layer decides for a batch is the same for both. Logits that are not
    finite pass: who reads documents names the one where that happens.
    """
    device = input_device(model)
    ids = torch.arange(1, 9, device=device).repeat(2, 1)
    ids[1, 4:] += 1
    try:
        with torch.no_grad(), reading_anywhere(model):
            one, other = model(input_ids=ids % embedding_rows(model), use_cache=False).logits[:, :4].float()
    except Exception as error:  # its own code raises what it likes
        raise ValueError(
            f"LLM {name!r} cannot read a text of 8 tokens on {device.type} ({reason(error)}): check its files, whether its "
            "quantisation and its attention run here, and of code of its own, whether that is for this transformers"
        ) from error
    moved, largest = float((one - other).abs().max()), float(one.abs().max())
    # Equal but for the order of sums; half precision keeps 8 to 11 bits.
    if moved > (1e-5 if model.dtype == torch.float32 else 2e-2) * largest:
        raise ValueError(
            f"LLM {name!r} is not causal: a token that comes later moves the logits before it, by {moved:.3g} where the "
            f"largest is {largest:.3g} ({type(model).__name__}). Give an LLM that reads from left to right, or set "
            "is_decoder in its config.json if it was trained as one"
        )


def require_embedded(model: PreTrainedModel, name: str, largest_id: int) -> None:
    """ValueError if the tokens that are to be read, `largest_id` among them, are more than the model has rows for."""
    require_rows(name, largest_id, embedding_rows(model))


def require_said_rows(model: PreTrainedModel, name: str, rows: int) -> None:
    """ValueError if embeddings or logits are of fewer tokens than the configuration says, which others trust."""
    head = model.get_output_embeddings()
    found = embedding_rows(model)
    if isinstance(head, nn.Linear) and head.weight.is_floating_point():  # 4-bit weights have another shape
        found = min(found, len(head.weight))
    if found < rows:
        raise ValueError(
            f"LLM {name!r}: its config.json says vocab_size {rows}, its weights have rows for {found} tokens: set vocab_size "
            "to that, or give the weights that it was saved with"
        )


def embedding_rows(model: PreTrainedModel) -> int:
    """Token ids that the model can read; often more than its tokenizer has, sometimes fewer."""
    return len(model.get_input_embeddings().weight)  # pyright: ignore[reportArgumentType]
