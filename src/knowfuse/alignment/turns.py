"""How is a conversation aligned? Message by message, each as a document of its own, by whichever method.

Source and target write the conversation each in their own template, and the bytes of a message are the same. The last token of
the template before it is what BOS is before a text; the token that ends the turn is what EOS is after it, and maps by role. So
no method knows of conversations, and what is between the messages is aligned with nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Int

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.surface.cutting import Marks
from knowfuse.surface.turns import same_turns
from knowfuse.types import EMPTY, AlignedSource, Aligner, SourceTrace, TokenizedDocument, TopK, Turn


def aligner(method: Callable[[TokenizerPair], Aligner], pair: TokenizerPair) -> Aligner:
    """The method's aligner for this pair; where the two read conversations, one of conversations."""
    align = method(pair)
    if pair.target.chat is None:
        return align
    sizes = np.array([len(piece or b"") for piece in pair.target.token_bytes], dtype=np.int64)
    return partial(align_turns, align=align, source=pair.source.marks, target_lead=_Lead(pair.target.lead, sizes))


@dataclass(frozen=True)
class _Lead:
    """What the first token of a message carries before it, and the bytes of every token."""

    piece: bytes
    sizes: Int[np.ndarray, " V"]

    def is_there(self, tokens: TokenizedDocument, turn: Turn) -> bool:
        """Whether this message begins as the map from source tokens takes for granted."""
        first = turn.first + 1
        takes = int(tokens.ends[first]) - turn.begin
        return not self.piece or turn.before < turn.first or int(self.sizes[tokens.input_ids[first]]) > takes


def align_turns(
    trace: SourceTrace, target: TokenizedDocument, data: bytes, *, align: Aligner, source: Marks, target_lead: _Lead
) -> AlignedSource:
    """One source's word on the rows of a conversation that are learnt; the others are not aligned.

    Nor is the row that predicts the first token of a message which the target writes without the space that its answers have.
    """
    assert target.turns is not None
    theirs = same_turns(trace.input_ids, trace.ends, target.turns, source)
    found: list[tuple[_Rows, AlignedSource]] = []
    for ours, their in zip(target.turns, theirs, strict=True):
        rows = _Rows(ours)
        said = align(_of_source(trace, _Rows(their)), _of_target(target, rows), data[ours.begin : ours.end])
        is_learnt = rows.predicting >= ours.first
        if not target_lead.is_there(target, ours):
            is_learnt &= rows.predicting > ours.first
        found.append((rows, replace(said, is_aligned=np.append(is_learnt, False) & said.is_aligned)))
    return _put_together(found, len(target.ends))


class _Rows:
    """A message as a document of its own: which tokens of the conversation it has, and by which row each but the first is predicted."""

    def __init__(self, turn: Turn) -> None:
        self.begin, self.is_after_space = turn.begin, turn.before < turn.first
        content = np.arange(turn.before, turn.last + 1)
        closing = np.arange(0) if turn.closes is None else np.array([turn.closes])
        self.tokens = np.concatenate([content, closing + 1])  # [n]
        self.predicting = np.concatenate([content[:-1], closing])  # [n - 1]


def _of_target(target: TokenizedDocument, rows: _Rows) -> TokenizedDocument:
    own = None if target.own is None else _closed(target.own, rows)
    return TokenizedDocument(target.input_ids[rows.tokens], target.ends[rows.tokens] - rows.begin, own)


def _of_source(trace: SourceTrace, rows: _Rows) -> SourceTrace:
    nll = np.append(trace.nll[rows.predicting], np.float32(0.0))
    if rows.is_after_space:
        nll[0] = 0.0  # the space is the template's: it is given, and not part of what the source pays for the message
    draws = None if trace.draws is None else np.pad(trace.draws[rows.predicting], ((0, 1), (0, 0)))
    ends = trace.ends[rows.tokens] - rows.begin
    return SourceTrace(trace.input_ids[rows.tokens], ends, _closed(trace.topk, rows), nll, draws)


def _closed(topk: TopK[np.ndarray], rows: _Rows) -> TopK[np.ndarray]:
    """What the rows say that predict the message, and a last one that predicts nothing."""
    last = np.full((1, topk.ids.shape[-1]), EMPTY, dtype=np.float32)
    ids = np.pad(topk.ids[rows.predicting], ((0, 1), (0, 0)))
    return TopK(ids, np.concatenate([topk.log_probs[rows.predicting], last]))


def _put_together(found: Sequence[tuple[_Rows, AlignedSource]], length: int) -> AlignedSource:
    """The words on all messages at their rows of the conversation."""
    width = max(said.topk.ids.shape[-1] for _, said in found)
    first = found[0][1]
    whole = AlignedSource(
        TopK(np.zeros((length, width), first.topk.ids.dtype), np.full((length, width), EMPTY, np.float32)),
        *(np.zeros(length, np.float32) for _ in range(3)),
        is_aligned=np.zeros(length, bool),
        budget=None if first.budget is None else np.zeros((length, first.budget.shape[-1])),
        row_classes=None if first.row_classes is None else np.zeros(length, np.uint8),
        is_by_rank=first.is_by_rank,
        remainder=first.remainder,
    )
    for rows, said in found:
        at, slots = rows.predicting, slice(said.topk.ids.shape[-1])
        whole.topk.ids[at, slots], whole.topk.log_probs[at, slots] = said.topk.ids[:-1], said.topk.log_probs[:-1]
        for name in ("tail", "nll", "source_tokens", "is_aligned", "budget", "row_classes"):
            if (part := getattr(said, name)) is not None:
                getattr(whole, name)[at] = part[:-1]
    return whole
