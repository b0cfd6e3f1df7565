"""How is a conversation aligned? Message by message, each as a document of its own, by whichever method.

Source and target write the conversation each in their own template, and the bytes of a message are the same. The last token of
the template before it is what BOS is before a text; the token that ends the turn is what EOS is after it, and maps by role. So
no method knows of conversations, and what is between the messages is aligned with nothing. A method that takes several texts in
one call is called once for a conversation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Int

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.texts import Texts, takes_texts
from knowfuse.surface.cutting import Marks
from knowfuse.surface.turns import same_turns
from knowfuse.types import EMPTY, AlignedSource, Aligner, SourceTrace, TokenizedDocument, TopK, Turn


def aligner(method: Callable[[TokenizerPair], Aligner], pair: TokenizerPair) -> Aligner:
    """The method's aligner for this pair; where the two read conversations, one of conversations."""
    align = method(pair)
    if pair.target.chat is None:
        return align
    sizes = np.array([len(piece or b"") for piece in pair.target.token_bytes], dtype=np.int64)
    lead = _Lead(pair.target.lead, sizes)
    return partial(align_turns, align=align, source=pair.source.marks, target_lead=lead, together=takes_texts(align))


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
    trace: SourceTrace,
    target: TokenizedDocument,
    data: bytes,
    *,
    align: Callable[..., AlignedSource],
    source: Marks,
    target_lead: _Lead,
    together: bool,
) -> AlignedSource:
    """One source's word on the rows of a conversation that are learnt; the others are not aligned.

    `together`: `align` is told where each message begins, and takes all in one call; else it is called with each alone. Nor is the
    row aligned that predicts the first token of a message which the target writes without the space that its answers have.
    """
    assert target.turns is not None
    whole, theirs = None, same_turns(trace.input_ids, trace.ends, target.turns, source)
    for turns, their in [(target.turns, theirs)] if together else zip(_each(target.turns), _each(theirs), strict=True):
        ours, its = _Rows(turns), _Rows(their)
        texts = {"texts": Texts(its.starts, ours.starts)} if together else {}
        said = align(_of_source(trace, its), _of_target(target, ours), data[ours.begin : ours.end], **texts)
        whole = whole or _nothing(said, len(target.ends))
        _put(said, ours, ours.learnt([target_lead.is_there(target, turn) for turn in turns]), whole)
    assert whole is not None, "a conversation has an answer"
    return whole


def _each(turns: Sequence[Turn]) -> list[Sequence[Turn]]:
    return [[turn] for turn in turns]


class _Rows:
    """Messages as documents of their own, one after another: which tokens of the conversation they have, and by which row each
    but the first of a message is predicted. `begin` and `end` are bytes.
    """

    def __init__(self, turns: Sequence[Turn]) -> None:
        self.turns, self.begin, self.end = turns, turns[0].begin, turns[-1].end
        tokens = [
            row for t in turns for row in (*range(t.before, t.last + 1), *(() if t.closes is None else (t.closes + 1,)))
        ]
        sizes = [t.last + 1 - t.before + (t.closes is not None) for t in turns]
        self.tokens = np.array(tokens)  # [n]
        self.starts = np.cumsum([0, *sizes])  # [M + 1]
        self.last = self.starts[1:] - 1  # [M] predict nothing
        self.rows = self.tokens.copy()  # [n] the row that predicts the token after each
        for last, turn in zip(self.last.tolist(), turns, strict=True):
            if turn.closes is not None:
                self.rows[last - 1] = turn.closes
        self.is_predicting = np.ones(len(tokens), dtype=bool)
        self.is_predicting[self.last] = False

    def learnt(self, is_lead_there: Sequence[bool]) -> Bool[np.ndarray, " n"]:
        """Of each row whether it is learnt; one that predicts a first token only where what it carries is there."""
        first = [turn.first + (not there) for turn, there in zip(self.turns, is_lead_there, strict=True)]
        return self.is_predicting & (self.rows >= np.repeat(first, np.diff(self.starts)))


def _of_target(target: TokenizedDocument, rows: _Rows) -> TokenizedDocument:
    own = None if target.own is None else _closed(target.own, rows)
    return TokenizedDocument(target.input_ids[rows.tokens], target.ends[rows.tokens] - rows.begin, own)


def _of_source(trace: SourceTrace, rows: _Rows) -> SourceTrace:
    nll = trace.nll[rows.rows]
    nll[rows.last] = 0.0
    for start, turn in zip(rows.starts[:-1].tolist(), rows.turns, strict=True):
        if turn.before < turn.first:  # the space is the template's: given, and no part of what is paid for the message
            nll[start] = 0.0
    draws = None
    if trace.draws is not None:
        draws = trace.draws[rows.rows]
        draws[rows.last] = 0
    ends = trace.ends[rows.tokens] - rows.begin
    return SourceTrace(trace.input_ids[rows.tokens], ends, _closed(trace.topk, rows), nll, draws)


def _closed(topk: TopK[np.ndarray], rows: _Rows) -> TopK[np.ndarray]:
    """What the rows say that predict the messages; a last one predicts nothing."""
    ids, log_probs = topk.ids[rows.rows], topk.log_probs[rows.rows]
    ids[rows.last], log_probs[rows.last] = 0, EMPTY
    return TopK(ids, log_probs)


def _nothing(like: AlignedSource, length: int) -> AlignedSource:
    """So many rows on which nothing is said, as wide as this."""
    width = like.topk.ids.shape[-1]
    return AlignedSource(
        TopK(np.zeros((length, width), like.topk.ids.dtype), np.full((length, width), EMPTY, np.float32)),
        *(np.zeros(length, np.float32) for _ in range(3)),
        is_aligned=np.zeros(length, bool),
        given=None if like.given is None else np.zeros(length, np.float32),
        budget=None if like.budget is None else np.zeros((length, like.budget.shape[-1])),
        row_classes=None if like.row_classes is None else np.zeros(length, np.uint8),
        is_by_rank=like.is_by_rank,
        remainder=like.remainder,
    )


def _put(said: AlignedSource, rows: _Rows, is_learnt: Bool[np.ndarray, " n"], whole: AlignedSource) -> None:
    """The words on some messages at their rows of the conversation."""
    at, keep = rows.rows[rows.is_predicting], rows.is_predicting
    whole.topk.ids[at], whole.topk.log_probs[at] = said.topk.ids[keep], said.topk.log_probs[keep]
    whole.is_aligned[at] = (said.is_aligned & is_learnt)[keep]
    for name in ("tail", "nll", "source_tokens", "given", "budget", "row_classes"):
        if (part := getattr(said, name)) is not None:
            getattr(whole, name)[at] = part[keep]
