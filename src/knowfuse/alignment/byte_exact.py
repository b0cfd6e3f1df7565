"""What would the source have said at this byte, in the target's tokens?

Alignment on bytes, after the byte-level view of token models (arXiv 2410.09303, 2412.03719, 2506.14123). Row t of
the target has consumed the bytes `[0, e)`; the last source boundary `b <= e` serves it. Let `r` be the bytes
`[b, e)`. The source row is conditioned on the candidates that start with `r`, each candidate loses `r`, and what
remains of it goes to the first target token of those bytes. Where the true next target token spans several source
tokens, its probability is the product along the gold chain already in the trace.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from knowfuse.alignment.duplicates import merge_duplicates
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.spent import ends_with_eos, spent_on_target_tokens
from knowfuse.surface import Surface
from knowfuse.types import EMPTY, AlignedSource, Aligner, SourceTrace, TokenizedDocument


def byte_exact(pair: TokenizerPair) -> Aligner:
    """The aligner for a pair of tokenizers: builds the map from source tokens and their suffixes to target tokens."""
    return partial(align_bytes, tokens=PairedTokens(pair.source, pair.target))


@dataclass
class PairedTokens:
    """Every source token as padded bytes, and the first target token of each of its suffixes.

    `first_inside[offsets[i] + k]` is the first target token of the bytes of source token i from byte k on, inside a
    document; `first_at_start` the same where the target's tokens begin a document. -1: no target token begins it.
    """

    source: Surface
    target: Surface

    @cached_property
    def are_same(self) -> bool:
        return self.source.fingerprint == self.target.fingerprint

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.array([len(piece or b"") for piece in self.source.token_bytes], dtype=np.int64)

    @cached_property
    def offsets(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths)])[:-1]

    @cached_property
    def padded(self) -> np.ndarray:
        """uint8 [V, L]: the bytes of every source token, zeros behind them."""
        table = np.zeros((len(self.lengths), max(int(self.lengths.max()), 1)), dtype=np.uint8)
        for i, piece in enumerate(self.source.token_bytes):
            table[i, : self.lengths[i]] = np.frombuffer(piece or b"", dtype=np.uint8)
        return table

    @cached_property
    def _suffixes(self) -> list[bytes]:
        return [piece[k:] for piece in self.source.token_bytes if piece for k in range(len(piece))]

    @cached_property
    def first_inside(self) -> np.ndarray:
        return self.target.first_tokens(self._suffixes, at_start=False)

    @cached_property
    def first_at_start(self) -> np.ndarray:
        return self.target.first_tokens(self._suffixes, at_start=True) if self.target.prefix else self.first_inside


def align_bytes(trace: SourceTrace, target: TokenizedDocument, data: bytes, *, tokens: PairedTokens) -> AlignedSource:
    """One source's word on every row of a target document; K' = K + 2 (the gold token, the chained one)."""
    if tokens.are_same:
        return _own_words(trace, target)
    rows = _locate(trace, target, tokens)
    ids, probs, is_gold = _candidates(trace, rows.source)
    starts = _starts_with(ids, rows, data, tokens)
    mass = np.where(starts, probs, 0.0)
    divisor = np.where(rows.residual > 0, mass.sum(-1), 1.0)  # [T], the probability of the bytes r
    target_ids = _first_target_tokens(ids, is_gold, rows, target, tokens)
    mass = np.where(target_ids >= 0, mass, 0.0) / np.maximum(divisor, np.finfo(np.float64).tiny)[:, None]
    chained = _chained(trace, rows, divisor)
    mass = mass - np.where(is_gold, chained[:, None], 0.0)  # taken off the shorter piece it was mapped to
    labels = np.append(target.input_ids[1:], 0)
    topk, tail = merge_duplicates(
        np.concatenate([target_ids, labels[:, None]], -1), np.concatenate([mass, chained[:, None]], -1)
    )
    nll, source_tokens = spent_on_target_tokens(trace, target)
    return AlignedSource(
        topk=topk,
        tail=tail,
        nll=nll,
        source_tokens=source_tokens,
        is_aligned=rows.is_served & (divisor > 0),
    )


def _own_words(trace: SourceTrace, target: TokenizedDocument) -> AlignedSource:
    """What a source said, as it said it: the target has the source's own tokenizer."""
    assert np.array_equal(trace.input_ids, target.input_ids), "one tokenizer, two ways to cut a document"
    ids, mass, _ = _candidates(trace, np.arange(len(trace.input_ids)))
    topk, tail = merge_duplicates(ids, mass)
    nll, source_tokens = spent_on_target_tokens(trace, target)
    predicts = np.arange(len(nll)) < len(nll) - 1
    return AlignedSource(topk, tail, nll, source_tokens, is_aligned=predicts)


@dataclass
class _Rows:
    """Which source row serves each target row; every field [T]."""

    source: np.ndarray  # row index into the trace
    begin: np.ndarray  # byte at which the source row's next token begins
    lead: np.ndarray  # bytes that this token has before those of the text: a space, or none
    residual: np.ndarray  # bytes of this token already consumed, its lead among them
    gold_end: np.ndarray  # byte at which the source row's next token ends
    next_end: np.ndarray  # byte at which the target row's next token ends
    paid: np.ndarray  # nats of the gold chain from the source row to the last source boundary up to next_end
    owes: np.ndarray  # next_end lies inside a source token
    is_served: np.ndarray
    predicts_eos: np.ndarray


def _locate(trace: SourceTrace, target: TokenizedDocument, tokens: PairedTokens) -> _Rows:
    """The row of the source that serves each target row.

    A source token may lead with a space that the text has not (the one put before a document; WordPiece after
    punctuation). Its row said the token with that space: the space is consumed there, a residual like any other.
    """
    source_eos, target_eos = ends_with_eos(trace.ends), ends_with_eos(target.ends)
    following = np.minimum(np.arange(len(trace.ends)) + 1, len(trace.ends) - 1)
    lead = tokens.lengths[trace.input_ids[following]] - (trace.ends[following] - trace.ends)  # [U]
    lead[-1] = 0
    predicting = trace.ends[:-1]
    row = np.maximum(np.searchsorted(predicting, target.ends, side="right") - 1, 0)
    next_end = np.append(target.ends[1:], target.ends[-1])
    chain_end = np.searchsorted(trace.ends[: len(trace.ends) - source_eos], next_end, side="right") - 1
    paid = np.concatenate([[0.0], np.cumsum(trace.nll[:-1], dtype=np.float64)])
    last, predicts_eos = np.arange(len(target.ends)) == len(target.ends) - 1, np.zeros(len(target.ends), dtype=bool)
    predicts_eos[-2:-1] = target_eos
    return _Rows(
        source=row,
        begin=trace.ends[row],
        lead=lead[row],
        residual=target.ends - trace.ends[row] + lead[row],
        gold_end=trace.ends[following][row],
        next_end=next_end,
        paid=paid[chain_end] - paid[row],
        owes=next_end > trace.ends[chain_end],
        is_served=~last & (source_eos | ~predicts_eos),
        predicts_eos=predicts_eos,
    )


def _candidates(trace: SourceTrace, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, float64 probabilities and gold flag [T, K + 1] of the serving rows: the kept tokens and the gold one."""
    gold = trace.input_ids[np.minimum(row + 1, len(trace.input_ids) - 1), None]
    kept = trace.topk.log_probs[row]
    ids = np.concatenate([np.where(kept > EMPTY, trace.topk.ids[row], 0), gold], -1)  # an empty slot's id means nothing
    probs = np.exp(np.concatenate([kept, -trace.nll[row][:, None]], -1).astype(np.float64))
    is_gold = ids == gold
    is_gold[:, :-1] &= kept > EMPTY
    is_gold[:, -1] = ~is_gold[:, :-1].any(-1)
    probs[:, -1] *= is_gold[:, -1]  # a gold token among the kept ones is not counted twice
    return ids, probs, is_gold


def _starts_with(ids: np.ndarray, rows: _Rows, data: bytes, tokens: PairedTokens) -> np.ndarray:
    """Bool [T, K + 1]: the candidate starts with the residual bytes of its row."""
    starts = np.ones(ids.shape, dtype=bool)
    inside = np.flatnonzero(rows.residual > 0)
    if len(inside):
        width = min(int(rows.residual[inside].max()), tokens.padded.shape[1])
        columns = np.arange(width) - rows.lead[inside, None]
        text = np.frombuffer(data + b" ", dtype=np.uint8)  # the space is what index -1 reads
        at = np.minimum(rows.begin[inside, None] + columns, len(data))
        residual = text[np.where(columns < 0, -1, at)]  # [N, L]
        length = rows.residual[inside, None]
        beyond = np.arange(width) >= length
        pieces = tokens.padded[ids[inside], :width]  # [N, K + 1, L]
        is_same = ((pieces == residual[:, None]) | beyond[:, None]).all(-1)
        starts[inside] = is_same & (tokens.lengths[ids[inside]] >= length)
    return starts


def _first_target_tokens(
    ids: np.ndarray, is_gold: np.ndarray, rows: _Rows, target: TokenizedDocument, tokens: PairedTokens
) -> np.ndarray:
    """Target id [T, K + 1] that each candidate's remaining bytes begin with, -1 where its mass belongs to the tail."""
    residual, labels = rows.residual[:, None], np.append(target.input_ids[1:], 0)[:, None]
    remains = tokens.lengths[ids] > residual  # a candidate equal to r: what would follow it is unknown
    suffix = np.where(remains, tokens.offsets[ids] + residual, 0)
    at_start = (np.arange(len(ids)) == 0)[:, None]
    first = np.where(at_start, tokens.first_at_start[suffix], tokens.first_inside[suffix])
    first = np.where(remains, first, -1)
    covers = (rows.gold_end >= rows.next_end)[:, None] & remains & ~rows.predicts_eos[:, None]
    first = np.where(is_gold & covers, labels, first)  # the true next target token was seen, not guessed
    if tokens.source.eos_id is not None and tokens.target.eos_id is not None:
        first = np.where((ids == tokens.source.eos_id) & (residual == 0), tokens.target.eos_id, first)
    return first


def _chained(trace: SourceTrace, rows: _Rows, divisor: np.ndarray) -> np.ndarray:
    """float64 [T]: the probability of a true next target token that spans several source tokens; 0 elsewhere.

    The product of the gold probabilities up to the last source boundary inside it; a source token that runs past its
    end counts with every candidate that starts with the bytes still owed, which is the divisor of the next row.
    """
    spans = (rows.gold_end < rows.next_end) & rows.is_served & ~rows.predicts_eos
    owed = np.where(rows.owes, np.append(divisor[1:], 1.0), 1.0)
    chained = np.exp(-rows.paid) * owed / np.maximum(divisor, np.finfo(np.float64).tiny)
    return np.where(spans, chained, 0.0)
