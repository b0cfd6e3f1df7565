"""What does an LLM say of single documents: what does each token cost it, and how would it go on from a beginning?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from knowfuse.evaluation.batches import batches_of, in_rows
from knowfuse.llms.dispatched import input_device
from knowfuse.llms.head import RowLogits, row_logits
from knowfuse.llms.isolation import length_borders
from knowfuse.ranks import ALONE
from knowfuse.surface.tokens import TokenizedDocuments

NEW_TOKENS = 24  # that an LLM goes on by; it reads all again for each


@dataclass
class Beginnings:
    """The first tokens of some documents, of each as many, so that they are read side by side without padding."""

    documents: list[str]  # ids
    input_ids: Int[Tensor, "B P"]
    usable: int  # ids below this can be said
    eos_id: int | None
    new_tokens: int = NEW_TOKENS


@dataclass
class Told:
    """By document id: nats of each row that predicts a token, and the ids that the LLM finds most probable, one after another."""

    nats: dict[str, list[float]] = field(default_factory=dict)
    went_on: dict[str, list[int]] = field(default_factory=dict)


def tell(model: PreTrainedModel, tokens: TokenizedDocuments, beginnings: Beginnings, batch_tokens: int) -> Told:
    """Of an LLM that is whole in this process; it is in evaluation mode afterwards as before."""
    told, llm, device = Told(), row_logits(model), input_device(model)
    with torch.inference_mode():
        for batch in batches_of(tokens, batch_tokens, ALONE, length_borders(model.config)):
            nats = llm.label_nll(*(rows.to(device) for rows in in_rows(tokens, batch)))
            told.nats |= unpadded(tokens, batch, nats)
        told.went_on = go_on(llm, beginnings, device)
    return told


def unpadded(tokens: TokenizedDocuments, names: Sequence[str], nats: Tensor) -> dict[str, list[float]]:
    """The nats [B, T] of documents in rows, each without its last row, which predicts nothing, and without padding."""
    lengths: Mapping[str, int] = tokens.lengths
    return {name: row[: lengths[name] - 1].tolist() for name, row in zip(names, nats.float().cpu(), strict=False)}


def go_on(llm: RowLogits, beginnings: Beginnings, device: torch.device) -> dict[str, list[int]]:
    """What is most probable next, and next after that, up to an EOS; nothing is sampled.

    Each step reads the whole text so far, as documents are read: whatever keeps a state or is in shards does so alike, and
    all ranks take as many steps.
    """
    ids = beginnings.input_ids.to(device)
    begun = ids.shape[1]
    for _ in range(beginnings.new_tokens if len(ids) else 0):
        last = llm.read(ids)[:, -1]
        logits = torch.cat(list(llm.logits(last, len(last))))[:, : beginnings.usable]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True).to(ids.device)], 1)
    rows = ids[:, begun:].tolist()
    return {name: _up_to(row, beginnings.eos_id) for name, row in zip(beginnings.documents, rows, strict=True)}


def _up_to(ids: list[int], eos_id: int | None) -> list[int]:
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
