"""Aligned drawn traces: on the mean over draws they are the aligned whole distributions, wherever that is promised."""

import numpy as np
import pytest
import torch
from tokenizers_for_tests import random_trace, surface

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.exact_match import exact_match
from knowfuse.alignment.mapping_statistics import mapping_statistics
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.losses import LinearHead, fused_linear_loss
from knowfuse.text.document import Document
from knowfuse.traces.drawing import draw_, drawn_trace
from knowfuse.types import EMPTY, AlignedSource, FusedTarget, SourceTrace, TokenizedDocument, TopK

TEXT = "def wrap(text):\n  return fill(é)"
GRID, K = 200, 6
METHODS = {
    "byte_exact": (byte_exact, {"rows": "shared", "look_ahead": False}),
    "exact_match": (exact_match, {}),
    "min_edit_distance": (min_edit_distance, {}),
    "mapping_statistics": (mapping_statistics, {}),
}


def drawn(whole: SourceTrace, size: int) -> list[SourceTrace]:
    """Draws from a trace that keeps the whole vocabulary: of each row its random numbers lie evenly, in an order of its own."""
    probs = torch.zeros(len(whole.ends), size, dtype=torch.float64)
    probs.scatter_(1, torch.from_numpy(whole.topk.ids), torch.from_numpy(whole.topk.log_probs).double().exp())
    gold = torch.from_numpy(np.append(whole.input_ids[1:], 0))
    rng = np.random.default_rng(0)
    uniform = np.stack([(rng.permutation(GRID) + 0.5) / GRID for _ in whole.ends])
    tokens = TokenizedDocument(whole.input_ids, whole.ends)
    found = []
    for n in range(GRID):
        ids, times = draw_(probs.float(), gold, torch.from_numpy(uniform[:, n].copy()), K)
        found.append(drawn_trace(tokens, ids.numpy(), times.numpy(), whole.nll))
    return found


def dense(aligned: AlignedSource, size: int) -> np.ndarray:
    """float64 [T, size + 1], the tail last; 0 where a row is not aligned."""
    probs = np.zeros((len(aligned.nll), size + 1))
    rows = np.arange(len(probs))[:, None]
    np.add.at(
        probs, (rows, np.where(aligned.topk.log_probs > EMPTY, aligned.topk.ids, 0)), np.exp(aligned.topk.log_probs)
    )
    probs[:, -1] = aligned.tail
    return probs * aligned.is_aligned[:, None]


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        *((name, "neox", "llama") for name in METHODS),
        ("byte_exact", "unigram", "neox"),
        ("byte_exact", "llama", "llama"),
    ],
)
def test_the_mean_is_the_aligned_whole_distribution(name: str, source: str, target: str) -> None:
    """Within what the grid of random numbers leaves, 1 / GRID at most: of each of some source tokens 1 / (GRID K).

    The same rows are aligned, but for those of `byte_exact` that begin with a space that the text has not.
    """
    method, options = METHODS[name]
    theirs, ours = surface(source), surface(target)
    whole, tokens = random_trace(theirs, TEXT, 0, seed=3, peak=3.0), ours.tokenize(TEXT)
    align = method(TokenizerPair(theirs, ours, [Document(TEXT, "code", "fusion")]), **options)
    want = align(whole, tokens, TEXT.encode())
    found = [align(trace, tokens, TEXT.encode()) for trace in drawn(whole, theirs.vocabulary_size)]
    rows = found[0].is_aligned
    assert all(np.array_equal(one.is_aligned, rows) for one in found)
    assert not (rows & ~want.is_aligned).any()
    assert rows.sum() >= 0.9 * want.is_aligned.sum()
    mean = np.mean([dense(one, ours.vocabulary_size) for one in found], axis=0)
    np.testing.assert_allclose(mean[rows], dense(want, ours.vocabulary_size)[rows], rtol=0, atol=1 / GRID)


def test_rows_inside_a_source_token_teach_nothing() -> None:
    """They would be a quotient of what was drawn; with the whole distribution they teach."""
    theirs, ours = surface("llama"), surface("neox")
    whole, tokens = random_trace(theirs, TEXT, 0), ours.tokenize(TEXT)
    align = byte_exact(TokenizerPair(theirs, ours), rows="all", look_ahead=False)
    one = align(drawn(whole, theirs.vocabulary_size)[0], tokens, TEXT.encode())
    inside = ~np.isin(tokens.ends[:-1], whole.ends)
    assert inside.any()
    assert not one.is_aligned[:-1][inside].any()
    assert align(whole, tokens, TEXT.encode()).is_aligned[:-1][inside].all()


def test_the_gradient_is_that_of_the_whole_distribution_on_the_mean() -> None:
    """Of the forward KL through the real loss, against the gradient of the whole distribution in its slots."""
    its = surface("neox")
    whole = random_trace(its, TEXT, 0, peak=3.0)
    rows, size = len(whole.ends) - 1, its.vocabulary_size
    labels = torch.from_numpy(whole.input_ids[1:])
    generator = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(size, 8, generator=generator, dtype=torch.float64))
    start = torch.randn(rows, 8, generator=generator, dtype=torch.float64)

    def gradient(trace: SourceTrace) -> torch.Tensor:
        hidden = start.clone().requires_grad_()
        ids, log_probs = (torch.from_numpy(part[:rows])[None] for part in (trace.topk.ids, trace.topk.log_probs))
        ones = torch.ones(1, rows, dtype=torch.bool)
        fused = FusedTarget(TopK(ids, log_probs), torch.zeros(1, rows), ones.float()[:, None], ones)
        fused_linear_loss(hidden, head, labels, fused, lm_weight=0.3).total.backward()
        assert hidden.grad is not None
        return hidden.grad

    mean = torch.stack([gradient(trace) for trace in drawn(whole, size)]).mean(0)
    want = gradient(whole)
    torch.testing.assert_close(mean, want, rtol=0, atol=1e-2 * float(want.abs().max()))
