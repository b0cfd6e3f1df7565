"""How much is there to compute and to keep on disk, and how long does that take?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from knowfuse.llms.shapes import build, shapes_only
from knowfuse.plan.gpus import GPU
from knowfuse.plan.memory import Training
from knowfuse.plan.simulate import reading_pass, size_of
from knowfuse.text.mixture import text_files
from knowfuse.text.quickstart import quickstart_corpus
from knowfuse.text.text_files import domains_of_files
from knowfuse.text.unpacked import PACKED
from knowfuse.traces.codec import expected_layout
from knowfuse.traces.largest import GROUP
from knowfuse.traces.reading import FEWEST_ROWS, LOGITS_AT_ONCE
from knowfuse.types import Kept, LLMSpec


@dataclass(frozen=True)
class Reading:
    """What it takes here that a source reads the corpus once; of one that is served, no more than disk."""

    parameters: int | None  # None: they are on a server
    flops: float
    weights: int  # bytes
    memory: int  # bytes on a GPU, the weights and a batch
    disk: float  # bytes of its traces


def reading(
    config: PretrainedConfig,
    spec: LLMSpec,
    top_k: int,
    batch_tokens: int,
    document_tokens: int,
    tokens: float,
    kept: Kept = "topk",
) -> Reading:
    """Of one source whose documents have `document_tokens`, in batches of `batch_tokens`; all have `tokens`.

    Memory: weights, a batch, and what `sources` makes of the logits of some rows: the logits and their
    log-probabilities in float32, and the groups among which the K largest are looked for; drawn tokens, which take the same
    bytes on disk, are looked for in groups again, in float64 too.
    """
    if spec.server is not None:
        row = expected_layout(top_k, config.get_text_config().vocab_size).row_bytes
        return Reading(parameters=None, flops=0.0, weights=0, memory=0, disk=row * tokens)
    document_tokens = min(document_tokens, batch_tokens)
    documents = max(1, batch_tokens // document_tokens)
    dtype = getattr(torch, spec.dtype)
    with shapes_only():
        model = build(config, dtype, spec.attention, spec.trust_remote_code).requires_grad_(False)
        size, used = size_of(model), reading_pass(model, documents, document_tokens)
    width = {None: dtype.itemsize, "8bit": 1, "4bit": 0.5}[spec.quantization]
    weights = int(size.linear * width) + (size.parameters - size.linear) * dtype.itemsize
    rows = min(documents * document_tokens, max(FEWEST_ROWS, LOGITS_AT_ONCE[True] // size.vocabulary))
    logits = rows * size.vocabulary * (4 + 4) + rows * min(top_k * GROUP, size.vocabulary) * (4 + 8)
    if kept == "sampled":
        logits += rows * (size.vocabulary * 4 + top_k * GROUP * (4 + 8 + 8))
    a_token = used.flops / (documents * document_tokens) + 2 * size.vocabulary * size.hidden
    return Reading(
        parameters=size.parameters,
        flops=a_token * tokens,
        weights=weights,
        memory=weights + max(used.peak, used.at_loss + logits),
        disk=expected_layout(top_k, size.vocabulary).row_bytes * tokens,
    )


def training_flops(planned: Training) -> float:
    """Of one fit: forward, backward and what is computed twice; the head and its gradients once for each."""
    shape, size = planned.shape, planned.size
    rows = shape.batch_blocks * shape.block_tokens
    products = 3 if size.is_head_trained else 2
    batch = planned.used.flops + products * 2 * rows * size.vocabulary * size.hidden
    return batch * shape.tokens / rows


def hours(flops: float, gpu: GPU, gpus: int, utilisation: float) -> float:
    """At a share of the GPU's peak."""
    return flops / (gpu.flops * gpus * utilisation) / 3600


def corpus_bytes(corpus: Mapping[str, Any], known: Mapping[str, int]) -> int:
    """Bytes of the text that the sources read. ValueError where that is neither known nor to be seen from sizes here."""
    name = corpus["_target_"].rpartition(".")[2]
    if name == quickstart_corpus.__name__:
        return 3 * corpus["fusion_bytes"]
    if name == text_files.__name__ and not corpus.get("weights"):
        domains = domains_of_files(corpus["files"], corpus["text_field"])
        paths = [path for each in domains for path, _ in each.files]
        if not any(path.suffix.lower() in (*PACKED, ".parquet") for path in paths):
            share = 1 - corpus["validation_share"] - corpus["test_share"]
            return round(sum(path.stat().st_size for path in paths) * share)
    datasets = [its["path"] for its in (corpus.get("datasets") or {}).values()]
    paths = [corpus["path"]] if corpus.get("path") else datasets if not corpus.get("files") else []
    if paths and all(path in known for path in paths):
        return sum(known[path] for path in paths)
    raise ValueError(
        f"how much text corpus {corpus.get('path', name)!r} has is not known before it is read: set "
        "corpus_bytes=<bytes of its training side>"
    )
