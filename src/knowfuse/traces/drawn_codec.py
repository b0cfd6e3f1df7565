"""How are drawn tokens kept? In the bytes of as many kept ones, exactly: a count of 8 bits where those have a share.

A row is a record of bits as `codec` has it: input id, end, nats, and K pairs of id and count; a count of 0 is an empty slot. The
true next token, which stands in the first slot of what is read, takes none here. Lost is only what the nats are rounded by.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import no_type_check

import numpy as np
from jaxtyping import UInt8

from knowfuse.compiled import compiled
from knowfuse.traces import codec
from knowfuse.traces.codec import SHARE_BITS, Layout, put, take
from knowfuse.traces.drawing import MOST_DRAWS, drawn_trace
from knowfuse.types import SourceTrace, TokenizedDocument

NAME = "drawn-1"  # of this layout of bits; another one gets another name


def layout_of(traces: Sequence[SourceTrace]) -> Layout:
    """The layout that holds all of these traces."""
    assert traces[0].draws is not None
    return replace(codec.layout_of(traces), top_k=traces[0].draws.shape[-1])


def encode(trace: SourceTrace, layout: Layout) -> UInt8[np.ndarray, "U R"]:
    """The rows of one document; ValueError where the trace breaks its own promises."""
    if trace.draws is None or (trace.draws.sum(-1).max(initial=0) > MOST_DRAWS) or trace.draws.min(initial=0) < 0:
        raise ValueError(f"this trace cannot be stored: it has no draws, or more than {MOST_DRAWS} of a row")
    codec.require_sound(trace)
    rows = np.zeros((len(trace.ends), layout.row_bytes), dtype=np.uint8)
    fields = (trace.input_ids, np.diff(trace.ends, prepend=0), codec.nll_codes(trace.nll))
    widths = (layout.id_bits, layout.end_bits, layout.nll_bits)
    _encode(np.stack(fields, -1).astype(np.int64), widths, trace.topk.ids[:, 1:], trace.draws.astype(np.int64), rows)
    return rows


def decode(rows: UInt8[np.ndarray, "U R"], layout: Layout) -> SourceTrace:
    """The trace of one document from its rows."""
    fields = np.empty((len(rows), 3), dtype=np.int64)
    ids, draws = (np.empty((len(rows), layout.top_k), dtype=np.int64) for _ in range(2))
    _decode(rows, (layout.id_bits, layout.end_bits, layout.nll_bits), fields, ids, draws)
    log_gold, log_rest = codec.logs_of(fields[:, 2])
    tokens = TokenizedDocument(fields[:, 0].copy(), np.cumsum(fields[:, 1]))
    return drawn_trace(tokens, ids, draws, (-log_gold).astype(np.float32), log_rest)


@compiled
@no_type_check
def _encode(fields, widths, ids, draws, rows):
    for t in range(len(rows)):
        at, free, room = 0, 0, 0
        for n in range(3):
            at, free, room = put(rows[t], at, free, room, fields[t, n], widths[n])
        for k in range(draws.shape[1]):
            at, free, room = put(rows[t], at, free, room, ids[t, k] if draws[t, k] > 0 else 0, widths[0])
            at, free, room = put(rows[t], at, free, room, draws[t, k], SHARE_BITS)
        if room > 0:
            rows[t, at] = free


@compiled
@no_type_check
def _decode(rows, widths, fields, ids, draws):
    for t in range(len(rows)):
        at, bits, held = 0, 0, 0
        for n in range(3):
            at, bits, held, fields[t, n] = take(rows[t], at, bits, held, widths[n])
        for k in range(draws.shape[1]):
            at, bits, held, ids[t, k] = take(rows[t], at, bits, held, widths[0])
            at, bits, held, draws[t, k] = take(rows[t], at, bits, held, SHARE_BITS)
