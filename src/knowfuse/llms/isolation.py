"""Does a target read each document as if it were alone, packed in a block or beside others in a batch?"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from knowfuse.llms.by_document import by_document
from knowfuse.llms.checks import embedding_rows
from knowfuse.llms.dispatched import input_device
from knowfuse.llms.head import OutputHead, hidden_states, packed_hidden_states
from knowfuse.surface.loading import reason

Packing = Literal["blocks", "one_document"]

# Relative to a row's norm, of all rows but one in twenty: a mixture of experts sends a row elsewhere where two of them are
# equal within rounding. A window or a neighbour that counts moves at least one row in nine, by 0.01 and more.
MOST_MOVED = {torch.float32: 1e-3, torch.float64: 1e-3}
MOST_MOVED_HALF = 5e-2
ROWS_THAT_COUNT = 0.95


def length_thresholds(config: PretrainedConfig) -> list[int]:
    """Tokens beyond which an LLM of this configuration reads otherwise: windows, chunks, the length before it was extended."""
    marks = ("window", "chunk", "original_max_position")

    def inside(settings: dict[Any, Any]) -> Iterator[int]:
        for key, value in settings.items():
            if isinstance(value, dict):
                yield from inside(value)
            elif type(value) is int and value > 0 and any(mark in str(key) for mark in marks):
                yield value

    return sorted(set(inside(config.get_text_config().to_dict())))


def length_borders(config: PretrainedConfig) -> list[int]:
    """Tokens beyond which the longest text of a batch decides how all of it is read (longrope): the two do not mix."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    layers = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    original = getattr(config.get_text_config(), "original_max_position_embeddings", None)
    found = [part.get("original_max_position_embeddings", original) for part in layers if _chooses_by_length(part)]
    return sorted({int(length) for length in found if length})


def _chooses_by_length(rope: dict[str, Any]) -> bool:
    return rope.get("rope_type") == "longrope"


def require_read_alone(
    model: PreTrainedModel, head: OutputHead, packing: Packing, block_tokens: int, longest: int
) -> None:
    """ValueError unless a document of `longest` tokens, and shorter ones around it, are read as each is alone.

    As many tokens are read as a block has, twice, without gradients: about two thirds of a training step on one block.
    """
    borders = [t for t in length_thresholds(model.config) if t < longest]
    lengths = (
        _in_a_block(block_tokens, longest, borders)
        if packing == "blocks"
        else [longest, max([longest // 2, 1, *(b + 1 for b in length_borders(model.config) if b < longest)])]
    )
    device, rows = input_device(model), embedding_rows(model)
    texts = [(torch.arange(n, device=device) * 7 + 5 * d + 1) % rows for d, n in enumerate(lengths)]
    was_training = model.training
    model.eval()
    read = _packed if packing == "blocks" else _beside_each_other
    try:
        with torch.no_grad():
            together = read(model, head, texts)
            alone = [hidden_states(model, head, text[None])[0] for text in texts]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{_cannot(model, packing)}: {reason(error)}{_remedy(model, packing)}") from error
    finally:
        model.train(was_training)
    if not all(bool(torch.isfinite(rows).all()) for rows in (*together, *alone)):
        raise ValueError(f"the logits of {type(model).__name__} are NaN or infinite: check its weights and dtype")
    moved = max(_moved(one, other) for one, other in zip(together, alone, strict=True))
    if moved > MOST_MOVED.get(together[0].dtype, MOST_MOVED_HALF):
        raise ValueError(
            f"{_cannot(model, packing)}: documents of {', '.join(map(str, lengths))} tokens move what it computes of them by "
            f"{moved:.2g} of its size{_remedy(model, packing)}"
        )


def _in_a_block(block_tokens: int, longest: int, thresholds: Sequence[int]) -> list[int]:
    """Lengths of three documents: the one in the middle is beyond each threshold that documents in a block can reach."""
    side = max(1, min(longest, block_tokens // 8))
    if any(block_tokens - 2 * side <= t for t in thresholds):
        side = 1
    return [side, max(1, min(longest, block_tokens - 2 * side)), side]


def _packed(model: PreTrainedModel, head: OutputHead, texts: Sequence[Tensor]) -> list[Float[Tensor, "n H"]]:
    positions = torch.cat([torch.arange(len(t), device=t.device) for t in texts])
    documents = torch.cat([torch.full_like(t, d) for d, t in enumerate(texts, 1)])
    rows = packed_hidden_states(model, head, torch.cat(list(texts))[None], positions[None], documents[None])[0]
    ends = list(accumulate(map(len, texts)))
    return [rows[end - len(text) : end] for text, end in zip(texts, ends, strict=True)]


def _beside_each_other(model: PreTrainedModel, head: OutputHead, texts: Sequence[Tensor]) -> list[Float[Tensor, "n H"]]:
    padded = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    return [rows[: len(text)] for rows, text in zip(hidden_states(model, head, padded), texts, strict=True)]


def _moved(one: Float[Tensor, "n H"], other: Float[Tensor, "n H"]) -> float:
    """How far the rows differ, relative to their norms, leaving out one row in twenty."""
    norms = other.double().norm(dim=-1).clamp(min=torch.finfo(other.dtype).tiny)
    return float(((one.double() - other.double()).norm(dim=-1) / norms).quantile(ROWS_THAT_COUNT))


def _cannot(model: PreTrainedModel, packing: Packing) -> str:
    how = "packed in a block" if packing == "blocks" else "padded on the right in a batch"
    return f"{type(model).__name__} does not read documents {how} as it reads each alone"


def _remedy(model: PreTrainedModel, packing: Packing) -> str:
    if packing == "blocks":
        by_itself = by_document(model) or not type(model)._supports_sdpa
        return f": set packing=one_document, a document a row{'' if by_itself else ', or attention: sdpa'}"
    return ": it cannot be a target"
