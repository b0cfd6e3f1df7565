"""One document as two tokenizers cut it: which source row served which target row, and what became of its mass."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from knowfuse.alignment.row_classes import serving_rows
from knowfuse.evaluation import SeenDocument
from knowfuse.surface import Surface
from knowfuse.surface.shown import shown
from knowfuse.surface.turns import served_by
from knowfuse.types import EMPTY, MASS_CLASSES, Aligner

NUM_BEST = 5  # aligned tokens that are listed


@dataclass
class Piece:
    """A token and the bytes of the document that it takes."""

    text: str
    begin: int
    end: int
    is_marker: bool  # of a chat template: it takes no bytes of the messages


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
    """A document in the tokens of a source and of the target; special tokens left out, but for those of a chat template."""

    source: str
    target: str
    source_pieces: list[Piece]
    target_pieces: list[PredictedPiece]


def example_of(align: Aligner, document: SeenDocument, source: Surface, target: Surface) -> Example:
    """A document whose source has read it, aligned by a method that keeps a mass budget."""
    aligned = align(document.trace, document.target, document.data)
    assert aligned.budget is not None
    rows, pieces = _served_by(document, source), []
    for t, its in _pieces(document.target.input_ids, document.target.ends, document, target):
        i, u = int(document.target.input_ids[t + 1]), rows.get(t, 0)
        slots = [n for n in np.argsort(-aligned.topk.log_probs[t]) if aligned.topk.log_probs[t, n] > EMPTY]
        said = {int(aligned.topk.ids[t, n]): float(np.exp(aligned.topk.log_probs[t, n])) for n in slots}
        pieces.append(
            PredictedPiece(
                **vars(its),
                served_by=u if aligned.is_aligned[t] else None,
                residual=shown(document.data[document.trace.ends[u] : its.begin]) if t in rows else "",
                probability=said.get(i, 0.0),
                budget=dict(zip(MASS_CLASSES, aligned.budget[t].tolist(), strict=True)),
                best=[(shown(target.token_bytes[j] or b"<eos>"), p) for j, p in list(said.items())[:NUM_BEST]],
            )
        )
    theirs = [piece for _, piece in _pieces(document.trace.input_ids, document.trace.ends, document, source)]
    return Example(source.name, target.name, theirs, pieces)


def _served_by(document: SeenDocument, source: Surface) -> dict[int, int]:
    """The source row that serves each row of the target, of a conversation each that is learnt."""
    if document.target.turns is None:
        return dict(enumerate(serving_rows(document.trace.ends, document.target.ends).tolist()))
    return served_by(document.target, document.trace.input_ids, document.trace.ends, source.marks)


def _pieces(
    input_ids: Int[np.ndarray, " T"], ends: Int[np.ndarray, " T"], document: SeenDocument, surface: Surface
) -> Iterator[tuple[int, Piece]]:
    """The tokens that are shown, each with the row that predicts it."""
    for row, i in enumerate(input_ids[1:].tolist()):
        begin, end, spelled = int(ends[row]), int(ends[row + 1]), surface.token_bytes[i]
        is_marker = document.target.turns is not None and begin == end
        if is_marker:
            yield row, Piece(shown(spelled or surface.token_strings[i].encode()), begin, end, is_marker)
        elif spelled is not None:
            yield row, Piece(shown(document.data[begin:end]), begin, end, is_marker)
