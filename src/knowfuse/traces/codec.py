"""How few bytes hold what a source said, and what is lost?

A row is a record of bits: input id and kept ids at the width of the shard's largest id, the end as bytes since the
last one, the nats of the true next token in 16 bits, each kept probability in 8. A probability is stored as its share
of what the true next token and the slots before it left over, so whatever is read sums to at most 1, and a kept true
next token needs no code of its own: its log-probability IS minus its nats.
Lost is only precision, measured on SmolLM2-135M, K = 10: KL(true || read) over the kept tokens and the tail is 4.8e-5
nats a row, 1.7e-4 at most; the nats of the true next token are within 5e-4 (benchmarks/store.py prints both). The
curve of `_LOGITS` is why 8 bits do. Equal steps of the log-probability itself lose 4.5e-3 nats a row and let 8 rows in
100 sum to more than 1 (12 bits: 6e-5, but 1.2e-2 in the worst row, and 5 bytes more); equal steps of the share's logit
lose 2.6e-4, steps of its arcsine 2.7e-5, but small probabilities are then up to 4 times too large or too small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import UInt8

from knowfuse.compiled import compiled, compiled_part
from knowfuse.types import EMPTY, SourceTrace, TopK

NAME = "bits-1"  # of this layout of bits and these tables; another one gets another name
SHARE_BITS = 8
_LARGEST, _CURVE = (
    16.0,
    3.0,
)  # shares have logits of -16 to 16, the steps grow like cosh: 0.04 at one half, 0.38 at the ends
_CODES = 2**SHARE_BITS - 1  # 0 is the empty slot
_LOGITS = _LARGEST * np.sinh(_CURVE * np.linspace(-1.0, 1.0, _CODES)) / np.sinh(_CURVE)
_LOG_SHARES = np.append(EMPTY, -np.logaddexp(0.0, -_LOGITS))
_LOG_RESTS = np.append(0.0, -np.logaddexp(0.0, _LOGITS))  # log(1 - share)
_SURE, _STEPS = 18.0, 1024.0  # the largest logit of a true next token, and steps a nat below it; code 0 is the last row


@dataclass(frozen=True)
class Layout:
    """The widths of the fields of a shard's rows: as narrow as its largest values allow."""

    top_k: int
    id_bits: int
    end_bits: int
    nll_bits: int

    @property
    def row_bytes(self) -> int:
        bits = self.id_bits + self.end_bits + self.nll_bits + self.top_k * (self.id_bits + SHARE_BITS)
        return (bits + 7) // 8


def expected_layout(top_k: int, vocabulary_size: int) -> Layout:
    """The layout of a shard before it is made: any id of the vocabulary, tokens below 128 bytes, nats below 18."""
    return Layout(top_k, max(1, (vocabulary_size - 1).bit_length()), 7, 16)


def layout_of(traces: Sequence[SourceTrace]) -> Layout:
    """The layout that holds all of these traces."""

    ids = max(max(t.input_ids.max(), t.topk.ids.max(initial=0, where=t.topk.log_probs > EMPTY)) for t in traces)
    steps = max(np.diff(t.ends, prepend=0).max() for t in traces)
    nll = max(nll_codes(t.nll).max() for t in traces)
    return Layout(traces[0].topk.ids.shape[-1], *(max(1, int(n).bit_length()) for n in (ids, steps, nll)))


def encode(trace: SourceTrace, layout: Layout) -> UInt8[np.ndarray, "U R"]:
    """The rows of one document.

    Raises ValueError where the trace breaks its own promises: ends that go back, nats that are not finite, kept
    probabilities above 1 in all, a kept true next token whose log-probability is not minus its nats.
    """
    require_sound(trace)
    rows = np.zeros((len(trace.ends), layout.row_bytes), dtype=np.uint8)
    _encode(
        trace.input_ids.astype(np.int64),
        np.diff(trace.ends, prepend=0).astype(np.int64),
        nll_codes(trace.nll),
        trace.nll.astype(np.float64),
        trace.topk.ids.astype(np.int64),
        trace.topk.log_probs.astype(np.float64),
        (layout.id_bits, layout.end_bits, layout.nll_bits),
        _CODES,
        rows,
    )
    return rows


def decode(rows: UInt8[np.ndarray, "U R"], layout: Layout) -> SourceTrace:
    """The trace of one document from its rows."""
    shape = (len(rows), layout.top_k)
    trace = SourceTrace(
        input_ids=np.empty(len(rows), dtype=np.int64),
        ends=np.empty(len(rows), dtype=np.int64),
        topk=TopK(np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)),
        nll=np.empty(len(rows), dtype=np.float32),
    )
    _decode(
        rows,
        (layout.id_bits, layout.end_bits, layout.nll_bits),
        (_LOG_SHARES, _LOG_RESTS),
        trace.input_ids,
        trace.ends,
        trace.nll,
        trace.topk.ids,
        trace.topk.log_probs,
    )
    return trace


def nll_codes(nll: np.ndarray) -> np.ndarray:
    """Steps below the largest logit of the true next token's probability; 0 for the last row, which has none."""
    nats = np.maximum(nll.astype(np.float64), 1e-9)
    logits = -nats - np.log(-np.expm1(-nats))
    codes = 1 + np.maximum(np.rint((_SURE - logits) * _STEPS), 0.0).astype(np.int64)
    codes[-1] = 0
    return codes


def logs_of(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The log-probabilities of the true next tokens with these codes, and of all others together, float64."""
    logits = _SURE - (codes - 1) / _STEPS
    return -np.logaddexp(0.0, -logits), -np.logaddexp(0.0, logits)


def require_sound(trace: SourceTrace) -> None:
    """ValueError where a trace breaks what it promises of ends, nats and probabilities."""
    log_probs = trace.topk.log_probs
    total = np.exp(log_probs, dtype=np.float64).sum(-1).max(initial=0.0)
    is_gold = (trace.topk.ids[:-1] == trace.input_ids[1:, None]) & (log_probs[:-1] > EMPTY)
    gap = np.abs(np.where(is_gold, log_probs[:-1], 0.0) + np.where(is_gold, trace.nll[:-1, None], 0.0)).max(initial=0.0)
    for is_broken, what in (
        (np.diff(trace.ends, prepend=0).min() < 0, "its ends go back"),
        (not np.isfinite(trace.nll).all() or trace.nll[-1] != 0, "its nats are not finite, or its last row has some"),
        (np.isnan(log_probs).any() or total > 1.001, f"the kept probabilities of a row sum to {total:.4f}"),
        (gap > 0.01, f"a true next token among the kept ones costs {gap:.4f} nats more or less there than in `nll`"),
    ):
        if is_broken:
            raise ValueError(f"this trace cannot be stored: {what}")


@compiled
@no_type_check
def _encode(input_ids, steps, nll_codes, nll, ids, log_probs, widths, num_codes, rows):
    id_bits, end_bits, nll_bits = widths
    num_rows, top_k = ids.shape
    probs = np.empty(top_k)
    for t in range(num_rows):
        gold = gold_slot(ids[t], log_probs[t], input_ids[t + 1]) if t + 1 < num_rows else -1
        left = -np.expm1(-nll[t]) if gold >= 0 else 1.0
        owed = 0.0  # what the slots from here on hold: never less is left, whatever was rounded
        for k in range(top_k):
            probs[k] = np.exp(log_probs[t, k]) if k != gold else 0.0
            owed += probs[k]
        at, free, room = put(rows[t], 0, 0, 0, input_ids[t], id_bits)
        at, free, room = put(rows[t], at, free, room, steps[t], end_bits)
        at, free, room = put(rows[t], at, free, room, nll_codes[t], nll_bits)
        for k in range(top_k):
            code = 0
            if k == gold:
                code = 1
            elif probs[k] > 0.0:
                owed = max(owed - probs[k], 0.0)
                left = max(left - probs[k], owed)
                code = share_code(log_probs[t, k] - np.log(left) if left > 0.0 else np.inf, num_codes)
            at, free, room = put(rows[t], at, free, room, ids[t, k] if code > 0 else 0, id_bits)
            at, free, room = put(rows[t], at, free, room, code, SHARE_BITS)
        if room > 0:
            rows[t, at] = free


@compiled
@no_type_check
def _decode(rows, widths, tables, input_ids, ends, nll, ids, log_probs):
    id_bits, end_bits, nll_bits = widths
    log_shares, log_rests = tables
    num_rows, top_k = ids.shape
    end = 0
    if num_rows > 0:
        input_ids[0] = take(rows[0], 0, 0, 0, id_bits)[3]
    for t in range(num_rows):
        row = rows[t]
        at, bits, held, _ = take(row, 0, 0, 0, id_bits)
        at, bits, held, step = take(row, at, bits, held, end_bits)
        at, bits, held, code = take(row, at, bits, held, nll_bits)
        end += step
        ends[t] = end
        gold_id, spent, left_if_kept = -1, 0.0, 0.0
        if t + 1 < num_rows:
            gold_id = input_ids[t + 1] = take(rows[t + 1], 0, 0, 0, id_bits)[3]
            logit = _SURE - (code - 1) / _STEPS
            spent = np.log1p(np.exp(-np.abs(logit))) + max(-logit, 0.0)
            left_if_kept = -logit - spent
        nll[t] = spent
        # The gold slot, whose share is taken first, is known only once all ids are.
        left = 0.0
        for k in range(top_k):
            at, bits, held, token = take(row, at, bits, held, id_bits)
            at, bits, held, share = take(row, at, bits, held, SHARE_BITS)
            ids[t, k] = token
            if token == gold_id and share > 0:
                gold_id = -1
                log_probs[t, k] = -nll[t]
                for j in range(k):
                    log_probs[t, j] += left_if_kept
                left += left_if_kept
            else:
                log_probs[t, k] = log_shares[share] + left
                left += log_rests[share]


@compiled_part
@no_type_check
def gold_slot(ids, log_probs, gold_id):
    """The first filled slot that holds the true next token; -1 if none does."""
    for k in range(len(ids)):
        if ids[k] == gold_id and log_probs[k] > -np.inf:
            return k
    return -1


@compiled_part
@no_type_check
def share_code(logit, num_codes):
    """The nearest of the codes 1 to `num_codes`."""
    highest = np.sinh(_CURVE)
    place = np.arcsinh(min(max(logit / _LARGEST, -1.0), 1.0) * highest) / _CURVE
    return 1 + int(np.rint((place + 1.0) * 0.5 * (num_codes - 1)))


@compiled(inline="always")
@no_type_check
def put(row, at, free, room, value, width):
    """Append `width` bits: the byte to fill next, the bits not yet in a byte, and how many they are."""
    free |= value << room
    room += width
    while room >= 8:
        row[at] = free & 255
        free >>= 8
        room -= 8
        at += 1
    return at, free, room


@compiled(inline="always")
@no_type_check
def take(row, at, bits, held, width):
    """The next `width` bits, after where reading goes on: the next byte, the bits read of the last, how many."""
    while held < width:
        bits |= np.int64(row[at]) << held
        at += 1
        held += 8
    return at, bits >> width, held - width, bits & ((1 << width) - 1)
