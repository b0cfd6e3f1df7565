"""What the codec promises, on whatever an LLM may say: ids and ends exactly, probabilities within the stated distortion."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import random_trace, surface

from knowfuse.traces import codec
from knowfuse.traces.codec import Layout, decode, encode, layout_of
from knowfuse.types import EMPTY, SourceTrace, TopK


def said(rows: int, top_k: int, vocabulary: int, seed: int, spread: float = 3.0) -> SourceTrace:
    """The K most probable of `vocabulary` random logits and the nats of a random next token, float32 as the sources give them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, vocabulary)) * spread
    log_probs = (logits - np.logaddexp.reduce(logits, -1, keepdims=True)).astype(np.float32)
    ids = np.argsort(-log_probs, -1, kind="stable")[:, :top_k]
    input_ids = rng.integers(0, vocabulary, rows)
    likely = rng.random(rows - 1) < 0.7
    input_ids[1:][likely] = ids[:-1][likely, rng.integers(0, top_k, likely.sum())]
    nll = np.zeros(rows, dtype=np.float32)
    nll[:-1] = -log_probs[np.arange(rows - 1), input_ids[1:]]
    ends = np.cumsum(rng.integers(0, 9, rows))
    return SourceTrace(input_ids, ends, TopK(ids, np.take_along_axis(log_probs, ids, -1)), nll)


def coded(trace: SourceTrace) -> SourceTrace:
    layout = layout_of([trace])
    return decode(encode(trace, layout), layout)


def divergence(trace: SourceTrace, read: SourceTrace) -> np.ndarray:
    """KL(true || read) of each row in nats, the tail a token of its own; float64."""
    p, q = (np.exp(t.topk.log_probs.astype(np.float64)) for t in (trace, read))
    p, q = (np.concatenate([m, np.maximum(1.0 - m.sum(-1, keepdims=True), 1e-9)], -1) for m in (p, q))
    return np.where(p > 0, p * np.log(np.where(p > 0, p / np.where(q > 0, q, 1e-300), 1.0)), 0.0).sum(-1)


TRACES = st.builds(
    said, st.integers(2, 20), st.integers(1, 9), st.integers(10, 90), st.integers(0, 10**6), st.floats(0.0, 12.0)
)


@given(TRACES)
@settings(max_examples=100)
def test_what_is_read_is_what_was_said(trace: SourceTrace) -> None:
    """Distributions flat and sharp: ids and ends exactly, nats within 5e-4, each row within 1.5e-3 nats and never above 1."""
    read = coded(trace)
    for a, b in ((trace.input_ids, read.input_ids), (trace.ends, read.ends), (trace.topk.ids, read.topk.ids)):
        assert a.dtype == b.dtype == np.int64
        np.testing.assert_array_equal(a, b)
    assert read.nll.dtype == read.topk.log_probs.dtype == np.float32
    np.testing.assert_allclose(read.nll, trace.nll, rtol=0.0, atol=5.1e-4 + 1e-7 * trace.nll.max())
    assert read.nll[-1] == 0
    assert np.exp(read.topk.log_probs, dtype=np.float64).sum(-1).max() <= 1 + 1e-6  # float32
    assert divergence(trace, read).max() < 1.5e-3
    assert divergence(trace, read).mean() < 1e-3


@given(TRACES)
@settings(max_examples=50)
def test_a_kept_true_next_token_costs_what_nll_says(trace: SourceTrace) -> None:
    """Identical, not only close: one number is stored for the two."""
    read = coded(trace)
    is_gold = read.topk.ids[:-1] == read.input_ids[1:, None]
    spent = np.broadcast_to(read.nll[:-1, None], is_gold.shape)
    np.testing.assert_array_equal(read.topk.log_probs[:-1][is_gold], -spent[is_gold])


def test_empty_slots_stay_empty() -> None:
    trace = said(6, 5, 40, seed=0)
    trace.topk.log_probs[1, 2:] = EMPTY
    trace.topk.log_probs[3, :] = EMPTY
    trace.topk.ids[3, 0] = trace.input_ids[4]  # an empty slot's id means nothing, not the true next token either
    read = coded(trace)
    np.testing.assert_array_equal(read.topk.log_probs == EMPTY, trace.topk.log_probs == EMPTY)
    kept = trace.topk.log_probs > EMPTY
    np.testing.assert_array_equal(read.topk.ids[kept], trace.topk.ids[kept])


def test_certainty_and_surprise() -> None:
    """A row of probability 1 (log-probability 0 in float32), and one that pays 200 nats."""
    log_probs = np.array([[0.0, -20.0], [-1e-7, -17.0], [-0.5, -1.0], [-0.5, -1.0]], dtype=np.float32)
    nll = np.array([0.0, 17.0, 200.0, 0.0], dtype=np.float32)
    ids = np.array([[1, 2], [1, 2], [1, 2], [1, 2]])
    trace = SourceTrace(np.array([0, 1, 2, 7]), np.arange(4), TopK(ids, log_probs), nll)
    read = coded(trace)
    np.testing.assert_allclose(read.nll, trace.nll, rtol=0.0, atol=5.1e-4)
    assert 0 < read.nll[0] < 2e-8
    np.testing.assert_allclose(read.topk.log_probs[:, 0], log_probs[:, 0], rtol=0.05, atol=1e-6)
    assert divergence(trace, read).max() < 1e-3


@pytest.mark.parametrize(
    ("largest_id", "largest_step", "nll", "row_bytes"),
    [
        (49_151, 255, 45.0, 35),
        (65_535, 3, 45.0, 35),
        (65_536, 255, 45.0, 37),
        (262_143, 255, 47.0, 38),
        (49_151, 600, 45.0, 36),
    ],
)
def test_rows_are_as_wide_as_the_shard_needs(largest_id: int, largest_step: int, nll: float, row_bytes: int) -> None:
    """K = 10: the bits of input id, end, nats and ten pairs of id and share, in whole bytes."""
    trace = said(4, 10, 12, seed=1)
    trace.topk.ids[2, 9] = trace.input_ids[1] = largest_id
    trace.ends[:] = [0, 0, largest_step, largest_step]
    trace.nll[0] = nll
    layout = layout_of([trace])
    assert layout.row_bytes == row_bytes
    read = decode(encode(trace, layout), layout)
    np.testing.assert_array_equal(read.topk.ids, trace.topk.ids)
    np.testing.assert_array_equal(read.ends, trace.ends)
    assert read.nll[0] == pytest.approx(nll, abs=5.1e-4)


def test_a_shard_has_one_layout_for_its_documents() -> None:
    """The widest of each: documents alone and together read the same."""
    traces = [said(5, 4, size, seed) for seed, size in enumerate((10, 300, 40))]
    layout = layout_of(traces)
    assert layout.id_bits == 9
    for trace in traces:
        together, alone = decode(encode(trace, layout), layout), coded(trace)
        np.testing.assert_array_equal(together.topk.log_probs, alone.topk.log_probs)
        np.testing.assert_array_equal(together.topk.ids, alone.topk.ids)


def test_the_bits_are_where_the_layout_says() -> None:
    """Read by an obvious reader of big integers: lowest bits first, input id, step, nats, then id and share of each slot."""
    trace = random_trace(surface("neox"), "def wrap(text):\n    return text", 6, peak=4.0)
    layout = layout_of([trace])
    for t, row in enumerate(encode(trace, layout)):
        number = int.from_bytes(row.tobytes(), "little")
        fields = []
        for width in (layout.id_bits, layout.end_bits, layout.nll_bits, *([layout.id_bits, codec.SHARE_BITS] * 6)):
            fields.append(number & (2**width - 1))
            number >>= width
        assert number == 0
        assert fields[0] == trace.input_ids[t]
        assert fields[1] == trace.ends[t] - (trace.ends[t - 1] if t else 0)
        assert fields[3::2] == trace.topk.ids[t].tolist()


@pytest.mark.parametrize("what", ["ends", "nats", "last", "sum", "gold"])
def test_a_trace_that_breaks_its_promises_is_refused(what: str) -> None:
    trace = said(4, 3, 20, seed=2)
    trace.input_ids[1] = trace.topk.ids[0, 0]
    trace.nll[0] = -trace.topk.log_probs[0, 0]
    layout = layout_of([trace])
    if what == "ends":
        trace = replace(trace, ends=trace.ends[::-1] + 1)
    elif what == "nats":
        trace.nll[1] = np.inf
    elif what == "last":
        trace.nll[-1] = 1.0
    elif what == "sum":
        trace.topk.log_probs[1] = -0.1
    else:
        trace.nll[0] += 0.5
    message = {
        "ends": "its ends go back",
        "nats": "its nats are not finite",
        "last": "its last row has some",
        "sum": r"the kept probabilities of a row sum to 2\.7",
        "gold": r"a true next token among the kept ones costs 0\.5000 nats more or less",
    }[what]
    with pytest.raises(ValueError, match=f"cannot be stored: .*{message}"):
        encode(trace, layout)


def test_codes_are_the_nearest() -> None:
    """Every share's own code comes back, and the tables are the logistic function of their logits."""
    layout = Layout(1, 1, 1, 16)
    for code in range(1, codec._CODES + 1):
        log_share = np.float32(codec._LOG_SHARES[code])
        trace = SourceTrace(
            np.array([0]), np.array([0]), TopK(np.array([[1]]), np.array([[log_share]])), np.zeros(1, dtype=np.float32)
        )
        assert decode(encode(trace, layout), layout).topk.log_probs[0, 0] == log_share or log_share > -1e-6
    np.testing.assert_allclose(np.exp(codec._LOG_SHARES) + np.exp(codec._LOG_RESTS), 1.0, rtol=1e-12)


def test_a_trace_without_slots() -> None:
    """K = 0: the tokens, where they end and what each cost, and nothing of the other tokens."""
    whole = random_trace(surface("neox"), "def wrap(text):\n    return é", 5)
    trace = SourceTrace(
        whole.input_ids, whole.ends, TopK(whole.topk.ids[:, :0], whole.topk.log_probs[:, :0]), whole.nll
    )
    layout = layout_of([trace])
    read = decode(encode(trace, layout), layout)
    assert layout.row_bytes < layout_of([whole]).row_bytes / 2
    assert read.topk.ids.shape == (len(trace.ends), 0)
    assert np.array_equal(read.input_ids, trace.input_ids)
    assert np.array_equal(read.ends, trace.ends)
    np.testing.assert_allclose(read.nll, trace.nll, rtol=0, atol=2e-3)
