"""How good is an alignment, before anyone trains?

Three numbers and a budget, over documents that a source has read. *Alignment loss*: the bits per byte that the aligned
distribution pays on the true next target tokens, minus what the source itself pays on the same bytes. A row is charged what it
takes as known of its true token as well (`AlignedSource.given`). A true token that no slot holds is charged the tail's share, `tail / (V - slots)`, for every method: V are the tokens that the target LLM can say,
over which the tail counts as spread evenly. What the source pays needs no share: of it the trace holds every true token.
So with the source's own tokenizer, the identity, a method that keeps the true token loses 0, and one that keeps the K best
alone loses what the tail's share charges beyond it. *Coverage*: the share of rows that are aligned. *Top-1 fidelity*: of a source that is certain of its true next
token, the share of rows whose most probable aligned token is the target's true next one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.turns import aligner
from knowfuse.surface.cutting import Marks
from knowfuse.surface.turns import learnt_rows, same_turns
from knowfuse.types import EMPTY, MASS_CLASSES, AlignedSource, Aligner, SourceTrace, TokenizedDocument, TopK

LEAST_TAIL = 2.0**-24  # what float32 can tell from none beside a sum of 1


@dataclass
class SeenDocument:
    """What a source said of a document, how the target cuts it, and its bytes."""

    trace: SourceTrace
    target: TokenizedDocument
    data: bytes


@dataclass
class MarkerQuality:
    """Of conversations, what of the target's tokens its chat template adds, and how the ends of turns that are learnt fare."""

    share: float  # of all tokens
    turn_ends: int
    coverage: float  # the share of `turn_ends` whose row is aligned; `top1_fidelity` as that of all rows
    top1_fidelity: float


@dataclass
class AlignmentQuality:
    """How well a source's words survive an alignment; shares are of the rows that predict a token."""

    loss_bits_per_byte: float
    coverage: float
    top1_fidelity: float
    budget: dict[str, float] | None  # the mean over aligned rows by `MASS_CLASSES`; None: the method has no classes
    identity_bits_per_byte: float | None = None  # what it loses where the target has the source's own tokenizer
    markers: MarkerQuality | None = None  # None: plain texts


def tried(
    method: Callable[[TokenizerPair], Aligner], pair: TokenizerPair, documents: Sequence[SeenDocument]
) -> tuple[Aligner, AlignmentQuality]:
    """The aligner of a method for this pair, and its quality, what it loses with the source's own tokenizer among it."""
    align = aligner(method, pair)
    lost = with_own_tokenizer(method, pair, documents).loss_bits_per_byte
    return align, replace(alignment_quality(align, documents, pair.target.usable), identity_bits_per_byte=lost)


def with_own_tokenizer(
    method: Callable[[TokenizerPair], Aligner], pair: TokenizerPair, documents: Sequence[SeenDocument]
) -> AlignmentQuality:
    """The quality of a method where the target has the source's own tokenizer: the identity, which need not lose anything."""
    alone = replace(pair, target=pair.source, documents=pair.documents[: len(documents)])
    own = [SeenDocument(d.trace, _as_its_source_cuts(d, pair.source.marks), d.data) for d in documents]
    quality = alignment_quality(aligner(method, alone), own, pair.source.usable)
    return replace(quality, identity_bits_per_byte=quality.loss_bits_per_byte)


def _as_its_source_cuts(document: SeenDocument, marks: Marks) -> TokenizedDocument:
    ids, ends, turns = document.trace.input_ids, document.trace.ends, document.target.turns
    its_turns = None if turns is None else same_turns(ids, ends, turns, marks)
    return TokenizedDocument(ids, ends, document.trace.topk, its_turns, document.target.prompt_bytes)


def alignment_quality(align: Aligner, documents: Sequence[SeenDocument], vocabulary_size: int) -> AlignmentQuality:
    """The quality of one source's alignment over these documents, for a target that can say `vocabulary_size` tokens.

    Ranks (`rank_matched`, `hybrid`) name no token before a target LLM ranks its own: here they rank by how often a token occurs in
    the documents, which a tokenizer alone can tell.
    """
    by_count = _most_frequent_first(documents)
    paid = spent = num_bytes = 0.0
    rows = aligned_rows = faithful = 0
    ends = np.zeros(3, dtype=np.int64)  # of turns, those aligned, those faithful
    budget = np.zeros(len(MASS_CLASSES))
    has_budget = True
    for document in documents:
        labels = document.target.input_ids[1:]
        aligned = align(document.trace, document.target, document.data)
        is_learnt = np.logical_or(*learnt_rows(document.target))[:-1]
        is_aligned = aligned.is_aligned[:-1] & is_learnt
        paid -= float(np.log(_label_probs(aligned, labels, by_count, vocabulary_size)[is_aligned]).sum())
        if aligned.given is not None:
            paid += float(aligned.given[:-1][is_aligned].sum(dtype=np.float64))
        spent += float(aligned.nll[:-1][is_aligned].sum(dtype=np.float64))
        num_bytes += int(np.diff(document.target.ends)[is_aligned].sum())
        rows, aligned_rows = rows + int(is_learnt.sum()), aligned_rows + int(is_aligned.sum())
        has_budget = has_budget and aligned.budget is not None
        if aligned.budget is not None:
            budget += aligned.budget[aligned.is_aligned].sum(0)
        certain = align(certain_of_the_text(document.trace), document.target, document.data)
        is_faithful = certain.is_aligned[:-1] & is_learnt & (_top1(certain, by_count)[:-1] == labels)
        faithful += int(is_faithful.sum())
        closes = [turn.closes for turn in document.target.turns or () if turn.closes is not None]
        ends += (len(closes), is_aligned[closes].sum(), is_faithful[closes].sum())
    return AlignmentQuality(
        loss_bits_per_byte=(paid - spent) / (math.log(2) * max(num_bytes, 1.0)),
        coverage=aligned_rows / max(rows, 1),
        top1_fidelity=faithful / max(rows, 1),
        budget=dict(zip(MASS_CLASSES, (budget / max(aligned_rows, 1)).tolist(), strict=True)) if has_budget else None,
        markers=_markers(documents, *ends.tolist()),
    )


def _markers(documents: Sequence[SeenDocument], turn_ends: int, aligned: int, faithful: int) -> MarkerQuality | None:
    if any(document.target.turns is None for document in documents):
        return None
    tokens = [document.target.ends for document in documents]
    added = sum(1 + int((ends[1:] == ends[:-1]).sum()) for ends in tokens)  # the first token of all is the template's
    share = added / sum(map(len, tokens))
    return MarkerQuality(share, turn_ends, aligned / max(turn_ends, 1), faithful / max(turn_ends, 1))


def certain_of_the_text(trace: SourceTrace) -> SourceTrace:
    """The trace of an oracle that cuts the document as this source does: probability 1 on each true next token."""
    gold = np.append(trace.input_ids[1:], 0)[:, None]
    nothing = np.zeros(len(gold), dtype=np.float32)
    return SourceTrace(trace.input_ids, trace.ends, TopK(gold, nothing[:, None]), nothing)


def _most_frequent_first(documents: Sequence[SeenDocument]) -> Int[np.ndarray, " V"]:
    ids, counts = np.unique(np.concatenate([d.target.input_ids[1:] for d in documents]), return_counts=True)
    return ids[np.argsort(-counts, kind="stable")]


def _ids(aligned: AlignedSource, by_count: Int[np.ndarray, " V"]) -> Int[np.ndarray, "T K"]:
    if not aligned.is_by_rank:
        return aligned.topk.ids
    if aligned.remainder is None:
        return np.append(by_count, -1)[np.minimum(aligned.topk.ids, len(by_count))]
    by_count = by_count[np.isin(by_count, aligned.remainder)]
    ranks = np.searchsorted(aligned.remainder, aligned.topk.ids)
    is_rank = np.append(aligned.remainder, -1)[ranks] == aligned.topk.ids
    return np.where(is_rank, np.append(by_count, -1)[np.minimum(ranks, len(by_count))], aligned.topk.ids)


def _label_probs(
    aligned: AlignedSource, labels: Int[np.ndarray, " rows"], by_count: Int[np.ndarray, " V"], vocabulary_size: int
) -> Float64[np.ndarray, " rows"]:
    """The probability of each true next token; the tail's share where no slot holds it."""
    log_probs = aligned.topk.log_probs[:-1].astype(np.float64)
    is_label = (_ids(aligned, by_count)[:-1] == labels[:, None]) & (log_probs > EMPTY)
    others = np.maximum(vocabulary_size - (log_probs > EMPTY).sum(-1), 1)
    share = np.maximum(aligned.tail[:-1].astype(np.float64), LEAST_TAIL) / others
    return np.where(is_label.any(-1), np.where(is_label, np.exp(log_probs), 0.0).sum(-1), share)


def _top1(aligned: AlignedSource, by_count: Int[np.ndarray, " V"]) -> Int[np.ndarray, " T"]:
    """The most probable id of each row; -1 where no slot is filled."""
    best = aligned.topk.log_probs.argmax(-1)[:, None]
    ids = np.take_along_axis(_ids(aligned, by_count), best, -1)
    return np.where(np.take_along_axis(aligned.topk.log_probs, best, -1) > EMPTY, ids, -1)[:, 0]
