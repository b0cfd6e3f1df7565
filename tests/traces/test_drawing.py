"""Drawn traces: each token is met as often as it is probable, whatever the random number; kept exactly, in the same bytes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import tiny_llm
from texts_for_tests import DOCUMENTS
from tokenizers_for_tests import surface

from knowfuse.surface.tokens import tokenize_documents
from knowfuse.traces import codec, drawn_codec
from knowfuse.traces.drawing import MOST_DRAWS, draw_, uniforms
from knowfuse.traces.manifest import TraceKey
from knowfuse.traces.reading import trace_documents
from knowfuse.traces.store import TraceStore
from knowfuse.types import EMPTY, SourceTrace

GRID = 500  # random numbers at even distances: a count's mean over them is within 1 / GRID of its integral
TOP_K = 6


def mean_share(probs: torch.Tensor, gold: int, k: int) -> tuple[np.ndarray, int]:
    """The mean over the grid of what each token counts as, and the number of draws; checks what holds of every draw."""
    uniform = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    rows = probs.float().repeat(GRID, 1)
    ids, times = draw_(rows, torch.full((GRID,), gold), uniform, k)
    assert ids.shape == times.shape == (GRID, k)
    assert not (ids[times > 0] == gold).any()
    (number,) = times.sum(1).unique().tolist()
    for slots, counts in zip(ids[:20].tolist(), times[:20].tolist(), strict=True):
        met = [i for i, n in zip(slots, counts, strict=True) if n]
        assert len(set(met)) == len(met)
    mean = torch.zeros(len(probs), dtype=torch.float64)
    mean.index_add_(0, ids.flatten(), times.flatten().double())
    return (mean / (GRID * max(number, 1))).numpy(), number


@settings(max_examples=20)
@given(
    size=st.integers(2, 700),
    k=st.integers(1, 40),
    spread=st.floats(0.0, 9.0),
    seed=st.integers(0, 10**6),
)
def test_the_mean_over_draws_is_the_distribution(size: int, k: int, spread: float, seed: int) -> None:
    """Of all tokens but the true next one, float64, flat and sharp; as many draws as go into the slots at least."""
    k = min(k, size)
    generator = torch.Generator().manual_seed(seed)
    probs = (spread * torch.randn(size, generator=generator, dtype=torch.float64)).softmax(-1)
    gold = int(torch.randint(size, (1,), generator=generator))
    mean, number = mean_share(probs, gold, k)
    want = probs.float().double().numpy()
    want[gold] = 0.0
    if number == 0:
        assert want.sum() == 0
        return
    assert min(k, MOST_DRAWS) <= number <= MOST_DRAWS
    np.testing.assert_allclose(mean, want / want.sum(), rtol=0, atol=1.5 / GRID)


def test_a_count_is_never_one_off_its_mean() -> None:
    probs = (3 * torch.randn(300, generator=torch.Generator().manual_seed(0))).softmax(-1)
    ids, times = draw_(probs.repeat(200, 1), torch.zeros(200).long(), torch.rand(200).double(), 32)
    number = int(times[0].sum())
    probs[0] = 0
    counts = torch.zeros(200, 300).scatter_add_(1, ids, times.float())
    assert (counts - number * probs / probs.sum()).abs().max() < 1 + 1e-3


def test_random_numbers_are_of_the_document_and_the_row() -> None:
    """Always the same, others for other documents, and evenly spread: mean and variance of a uniform number."""
    name, other = "0123456789abcdef01234567", "1123456789abcdef01234567"
    long = uniforms(name, 20_000)
    assert np.array_equal(long[:7], uniforms(name, 7))
    assert uniforms(name, 2).tolist() == [0.08389616190521443, 0.8337909344596774]  # on every machine
    assert not np.isin(uniforms(other, 100), long).any()
    assert 0 <= long.min() < long.max() < 1
    assert abs(long.mean() - 0.5) < 0.01
    assert abs(long.var() - 1 / 12) < 0.005
    assert abs(np.corrcoef(long[1:], long[:-1])[0, 1]) < 0.03


def traced(batch_tokens: int = 600, top_k: int = TOP_K) -> dict[str, SourceTrace]:
    its = surface("llama")
    documents = tokenize_documents(its, DOCUMENTS, max_tokens=500)
    llm = tiny_llm("llama", its.vocabulary_size)
    batches = trace_documents(llm, its, documents, top_k, batch_tokens, kept="sampled")
    return {name: trace for batch in batches for name, trace in batch.items()}


def test_a_row_is_its_true_token_and_what_was_drawn_beside_it() -> None:
    """Sums to 1; the true next token as probable as `nll` says; the others by their counts; the last row is empty."""
    its = surface("llama")
    most_probable = trace_documents(
        tiny_llm("llama", its.vocabulary_size), its, tokenize_documents(its, DOCUMENTS, 500), TOP_K, 600
    )
    nll = {name: trace.nll for batch in most_probable for name, trace in batch.items()}
    for name, trace in traced().items():
        assert trace.draws is not None
        assert trace.topk.ids.shape == (len(trace.ends), 1 + TOP_K)
        np.testing.assert_allclose(trace.nll, nll[name], rtol=0, atol=2e-6)
        assert trace.topk.ids[:-1, 0].tolist() == trace.input_ids[1:].tolist()
        np.testing.assert_array_equal(trace.topk.log_probs[:-1, 0], -trace.nll[:-1])
        probs = np.exp(trace.topk.log_probs.astype(np.float64))
        np.testing.assert_allclose(probs[:-1].sum(-1), 1.0, rtol=0, atol=1e-6)
        assert (trace.topk.log_probs[-1] == EMPTY).all()
        shares = trace.draws[:-1] / trace.draws[:-1].sum(-1, keepdims=True)
        np.testing.assert_allclose(probs[:-1, 1:], shares * -np.expm1(-trace.nll[:-1, None]), rtol=1e-5, atol=0)
        assert not (trace.topk.ids[:-1, 1:] == trace.input_ids[1:, None])[trace.draws[:-1] > 0].any()


def test_reading_again_draws_the_same() -> None:
    """In the same batches to the last bit; in others but where a rounding moves the edge of two tokens over a draw."""
    one, same, other = traced(), traced(), traced(batch_tokens=1)
    rows = unlike = 0
    for name, trace in one.items():
        assert np.array_equal(trace.topk.ids, same[name].topk.ids)
        assert np.array_equal(trace.topk.log_probs, same[name].topk.log_probs)
        unlike += int((trace.draws != other[name].draws).any(-1).sum())  # type: ignore[union-attr]
        rows += len(trace.ends)
    assert unlike <= 0.02 * rows


def test_draws_are_kept_exactly_in_the_bytes_of_as_many_kept_tokens() -> None:
    for trace in traced().values():
        layout = drawn_codec.layout_of([trace])
        assert layout.row_bytes == codec.Layout(TOP_K, layout.id_bits, layout.end_bits, layout.nll_bits).row_bytes
        read = drawn_codec.decode(drawn_codec.encode(trace, layout), layout)
        for name in ("input_ids", "ends", "draws"):
            np.testing.assert_array_equal(getattr(read, name), getattr(trace, name))
        np.testing.assert_array_equal(read.topk.ids, trace.topk.ids)
        np.testing.assert_allclose(read.nll, trace.nll, rtol=0, atol=5.1e-4)
        np.testing.assert_allclose(np.exp(read.topk.log_probs), np.exp(trace.topk.log_probs), rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(np.exp(read.topk.log_probs[:-1].astype(np.float64)).sum(-1), 1.0, rtol=0, atol=1e-6)


def test_more_draws_than_a_count_holds_are_refused() -> None:
    trace = next(iter(traced().values()))
    assert trace.draws is not None
    layout = drawn_codec.layout_of([trace])
    with pytest.raises(ValueError, match="cannot be stored: it has no draws, or more than 255 of a row"):
        drawn_codec.encode(replace(trace, draws=trace.draws * 300), layout)


def test_drawn_traces_have_a_key_of_their_own(tmp_path: Path) -> None:
    """That of the most probable tokens is as it was before there were others; one kind is not read as the other."""
    topk = TraceKey("mpt", "weights", "surface", 6)
    drawn = replace(topk, kept="sampled")
    assert topk.folder_name == "mpt-64c9aede3d04"
    assert drawn.folder_name != topk.folder_name
    store = TraceStore(tmp_path / "one", drawn)
    traces = traced()
    store.write(traces)
    for name, trace in traces.items():
        np.testing.assert_array_equal(TraceStore(tmp_path / "one", drawn).read(name).draws, trace.draws)
    with pytest.raises(ValueError, match=r"were made with codec='drawn-1', this run wants 'bits-1'"):
        TraceStore(tmp_path / "one", topk)
