"""What does a training step on a packed block cost beside one on the same documents alone, and does it say the same?

    python benchmarks/attention.py

A 33M-parameter Llama (384 wide, 8 layers, SmolLM2's 49,152 rows of vocabulary) learns eight documents of 1,024 tokens, in
turns in the same process: packed in one block of 8,192, and one by one, unpadded, their gradients added up. Both are from
ids to gradients, by our loss. Bytes of masks are what its attention layers are given in the block, beyond the largest that
one document takes alone. The largest difference is that of the logits of a packed document from its own alone, over the
largest logit, for a tiny LLM of each architecture that can be packed (tests/architectures_for_tests.py), in documents
beyond their windows and chunks of 8 tokens.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from step import llama
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from knowfuse.llms.by_document import DocumentMasks
from knowfuse.llms.head import OutputHead, hidden_states, output_head, packed_hidden_states
from knowfuse.losses import fused_linear_loss
from knowfuse.screen import quiet_libraries
from knowfuse.types import IGNORE

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from architectures_for_tests import PACKED, tiny

LENGTHS = (60, 41, 33)  # tokens of the documents that are compared
VOCABULARY = 300  # of the tiny LLMs
DOCUMENTS = 8


def packed_rows(model: PreTrainedModel, head: OutputHead, documents: list[Tensor]) -> Tensor:
    """Hidden states [N, H] of the documents, read as one block."""
    positions = torch.cat([torch.arange(len(d)) for d in documents])[None]
    numbers = torch.cat([torch.full_like(d, n) for n, d in enumerate(documents, 1)])[None]
    return packed_hidden_states(model, head, torch.cat(documents)[None], positions, numbers)[0]


def learn(rows: Tensor, head: OutputHead, documents: list[Tensor], total: int) -> float:
    """Add the gradient of these documents' mean loss, weighed by their share of `total` tokens; the loss's part."""
    labels = torch.cat([torch.cat([d[1:], torch.tensor([IGNORE])]) for d in documents])
    loss = fused_linear_loss(rows, head.linear(), labels, None, lm_weight=1.0).total
    part = loss * sum(len(d) - 1 for d in documents) / (total - DOCUMENTS)
    part.backward()
    return float(part.detach())


def step_packed(model: PreTrainedModel, head: OutputHead, documents: list[Tensor]) -> float:
    return learn(packed_rows(model, head, documents), head, documents, sum(map(len, documents)))


def step_alone(model: PreTrainedModel, head: OutputHead, documents: list[Tensor]) -> float:
    total = sum(map(len, documents))
    return sum(learn(hidden_states(model, head, d[None])[0], head, [d], total) for d in documents)


def timed(step: Callable[[], float], model: PreTrainedModel) -> tuple[float, float]:
    """Seconds and loss."""
    model.zero_grad()
    began = time.perf_counter()
    loss = step()
    return time.perf_counter() - began, loss


def mask_bytes(step: Callable[[], Any], model: PreTrainedModel) -> int:
    """The most bytes of masks that the attention of one layer is given."""
    name, given = model.config._attn_implementation, [0]
    attend = AttentionInterface()[name]

    def watching(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
        masks = [part for _, part in mask.documents] if isinstance(mask, DocumentMasks) else [mask]
        given.append(sum(m.numel() * m.element_size() for m in masks if m is not None))
        return attend(module, query, key, value, mask, **options)

    AttentionInterface.register(name, watching)
    try:
        step()
    finally:
        AttentionInterface.register(name, attend)
    return max(given)


def difference(name: str) -> float:
    """How far the logits of packed documents are from those of each alone, of the largest."""
    model = tiny(name, VOCABULARY)
    head = output_head(model, VOCABULARY)
    documents = [torch.randint(3, VOCABULARY - 3, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
    with torch.no_grad():
        packed = packed_rows(model, head, documents).split(list(LENGTHS))
        moved, largest = 0.0, 0.0
        for rows, document in zip(packed, documents, strict=True):
            logits = [r @ head.linear().weight.T for r in (rows, hidden_states(model, head, document[None])[0])]
            moved = max(moved, float((logits[0] - logits[1]).abs().max()))
            largest = max(largest, float(logits[1].abs().max()))
    return moved / largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--block-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--architectures", nargs="*", default=list(PACKED))
    arguments = parser.parse_args()
    quiet_libraries()

    model = llama(arguments.width, arguments.vocabulary).train()
    head = output_head(model, arguments.vocabulary)
    generator = torch.Generator().manual_seed(0)
    documents = list(torch.randint(0, arguments.vocabulary, (arguments.block_tokens,), generator=generator).chunk(8))
    steps = {name: partial(f, model, head, documents) for name, f in (("packed", step_packed), ("alone", step_alone))}
    masks = {name: mask_bytes(step, model) for name, step in steps.items()}  # it warms up, too
    spent: dict[str, list[float]] = {name: [] for name in steps}
    losses = {}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            seconds, losses[name] = timed(step, model)
            spent[name].append(seconds)
    moved = {name: difference(name) for name in arguments.architectures}

    table = Table(
        "",
        "s a step",
        "loss, nats",
        "bytes of masks",
        title=f"{DOCUMENTS} documents, {arguments.block_tokens:,} tokens",
    )
    for name in steps:
        table.add_row(name, f"{statistics.median(spent[name]):.2f}", f"{losses[name]:.6f}", f"{masks[name]:,}")
    Console().print(table)
    table = Table("packed against alone", "largest difference of a logit, of the largest")
    for name, by in moved.items():
        table.add_row(name, f"{by:.1e}")
    Console().print(table)
    pairs = zip(spent["packed"], spent["alone"], strict=True)
    figures = {
        "packed_vs_alone_time": round(statistics.median(packed / alone for packed, alone in pairs), 4),
        "extra_mask_bytes": masks["packed"] - masks["alone"],
        "packed_vs_alone_max_difference": max(moved.values(), default=0.0),
        "loss_difference_nats": abs(losses["packed"] - losses["alone"]),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
