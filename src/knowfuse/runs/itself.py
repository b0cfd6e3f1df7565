"""Is a set-up right? A target whose only source is itself has nothing to learn from it: `debug=self`."""

from copy import copy
from dataclasses import dataclass, field, replace

import lightning as L
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device

from knowfuse.alignment.hybrid import resolution
from knowfuse.losses import FusedLoss
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.prepared import Prepared, Source
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.text.document import Document
from knowfuse.traces.reading import trace_documents
from knowfuse.training.blocks import PackedBlocks, SourceReader, collate
from knowfuse.training.module import FusionModule
from knowfuse.types import AlignedSource, FusionBatch, SourceTrace, TokenizedDocument

MOST_NATS = {"float32": 1e-6}  # of KL that sums of float32 in another order leave
MOST_NATS_HALF = 1e-3


@dataclass
class UnroundedReader(SourceReader):
    """A source's traces as they were read, before they are coded."""

    traces: dict[str, SourceTrace] = field(default_factory=dict)

    def read(self, document: Document, target: TokenizedDocument) -> AlignedSource | None:
        if document.id not in self.traces:
            return None
        own = replace(target, own=self.traces[document.id].topk)
        return self.align(self.traces[document.id], own, document.text.encode())


def learns_nothing(experiment: Experiment, prepared: Prepared) -> str:
    """What the first fused batch costs a target that is its own source, before a step is taken, in a sentence.

    Its source is read here as tracing reads it, aligned, packed and fused as in training: the KL must be 0. From the stored
    traces, in which a probability has 8 bits, it is what these bits cost. ValueError where the KL is not 0, or the loss is not
    that of CLM by its weight.
    """
    (source,) = prepared.sources.values()
    blocks = experiment.data(prepared, "fused").train_blocks
    chosen = range(min(experiment.batch_blocks, len(blocks)))
    L.seed_everything(experiment.seed, workers=True, verbose=False)
    unrounded = copy(blocks)
    its: list[SourceReader] = [_unrounded(experiment, prepared, source, blocks, chosen)]
    unrounded.sources = its
    module = experiment.module(prepared, "fused", experiment.learning_rates[0])
    module.configure_model()
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    module.to(device).eval()
    found, stored = (
        _loss(module, move_data_to_device(collate([side[block] for block in chosen]), device))
        for side in (unrounded, blocks)
    )
    weight = experiment.lm_weight
    most = MOST_NATS.get(prepared.target.spec.dtype, MOST_NATS_HALF)
    kl, clm, total = float(found.kl), float(found.clm), float(found.total)
    said = (
        f"debug=self, the first batch, {float(found.fused_share):.0%} of its rows fused: KL {kl:.1e} nats, CLM {clm:.4f} nats, loss "
        f"{total:.4f} = {weight:g} x CLM + {total - weight * clm:.1e}; from stored traces, which round to 8 bits, KL {float(stored.kl):.1e}"
    )
    if not (abs(kl) <= most and abs(total - weight * clm) <= most * (1 + clm)) or not found.fused_share > 0:
        raise ValueError(
            f"{said}. A target that is its own source has a KL of 0 within {most:g} on rows that are fused: something between its "
            "words and the loss is lost or moved; look at alignment and quantization of these settings"
        )
    return f"{said}. The set-up is right: nothing is lost or moved between what a source says and the loss"


def _unrounded(
    experiment: Experiment, prepared: Prepared, source: Source, blocks: PackedBlocks, chosen: range
) -> UnroundedReader:
    """What the target says, read anew, of the documents in these blocks."""
    documents = [blocks.documents[int(place)] for block in chosen for place in blocks.blocks[block]]
    tokens = tokenize_documents(source.surface, documents, source.llm.context_length())
    with prepared.target.to_read(prepared.cache) as model:
        read = trace_documents(
            model, source.surface, tokens, experiment.top_k, batch_tokens=experiment.tracing.batch_tokens
        )
        traces = {name: trace for batch in read for name, trace in batch.items()}
    return UnroundedReader(source.store, experiment.alignment(prepared.pair(source.llm.name)), traces=traces)


def _loss(module: FusionModule, batch: FusionBatch) -> FusedLoss:
    """As the first training step computes it."""
    assert module.fusion is not None
    assert batch.sources is not None
    with torch.no_grad():
        hidden, head = module.hidden_states(batch)
        fused = module.fusion(batch.sources, batch.document_ids, batch.label_bytes)
        weight = module.lm_weight.start
        resolve = resolution(batch.sources)
        return module.loss(hidden, head, batch.labels.flatten(), fused, lm_weight=weight, resolve=resolve)
