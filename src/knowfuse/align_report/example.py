"""One document as two tokenizers cut it: which source row served which target row, and what became of its mass."""

from dataclasses import dataclass

import numpy as np

from knowfuse.alignment.byte_rows import serving_rows
from knowfuse.evaluation import SeenDocument
from knowfuse.surface import Surface
from knowfuse.surface.shown import shown
from knowfuse.types import EMPTY, MASS_CLASSES, Aligner

NUM_BEST = 5  # aligned tokens that are listed


@dataclass
class Piece:
    """A token and the bytes of the document that it takes."""

    text: str
    begin: int
    end: int


@dataclass
class PredictedPiece(Piece):
    """A target token, and what the aligned row before it said of it."""

    served_by: int | None  # the source row; None: not aligned
    residual: str  # what the source row's next token had already written
    probability: float  # that the aligned row gives to this token
    budget: dict[str, float]
    best: list[tuple[str, float]]


@dataclass
class Example:
    """A document in the tokens of a source and of the target; special tokens left out."""

    source: str
    target: str
    source_pieces: list[Piece]
    target_pieces: list[PredictedPiece]


def example_of(align: Aligner, document: SeenDocument, source: Surface, target: Surface) -> Example:
    """A document whose source has read it, aligned by a method that keeps a mass budget."""
    aligned = align(document.trace, document.target, document.data)
    assert aligned.budget is not None
    served_by = serving_rows(document.trace.ends, document.target.ends)
    pieces = []
    for t, i in enumerate(document.target.input_ids[1:].tolist()):
        if target.token_bytes[i] is None:
            continue
        begin, end, u = int(document.target.ends[t]), int(document.target.ends[t + 1]), int(served_by[t])
        slots = [n for n in np.argsort(-aligned.topk.log_probs[t]) if aligned.topk.log_probs[t, n] > EMPTY]
        said = {int(aligned.topk.ids[t, n]): float(np.exp(aligned.topk.log_probs[t, n])) for n in slots}
        pieces.append(
            PredictedPiece(
                shown(document.data[begin:end]),
                begin,
                end,
                served_by=u if aligned.is_aligned[t] else None,
                residual=shown(document.data[document.trace.ends[u] : begin]),
                probability=said.get(i, 0.0),
                budget=dict(zip(MASS_CLASSES, aligned.budget[t].tolist(), strict=True)),
                best=[(shown(target.token_bytes[j] or b"<eos>"), p) for j, p in list(said.items())[:NUM_BEST]],
            )
        )
    ends = document.trace.ends
    theirs = [
        Piece(shown(document.data[ends[u] : ends[u + 1]]), int(ends[u]), int(ends[u + 1]))
        for u, i in enumerate(document.trace.input_ids[1:].tolist())
        if source.token_bytes[i] is not None
    ]
    return Example(source.name, target.name, theirs, pieces)
