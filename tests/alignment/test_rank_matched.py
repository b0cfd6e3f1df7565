"""Sorted probabilities against a slow reading, and what becomes of ranks at the loss."""

import numpy as np
import pytest
import torch
from tokenizers_for_tests import LOSSLESS, random_trace, surface, toy_surface

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.rank_matched import rank_matched, ranks_to_ids
from knowfuse.types import EMPTY, FusedTarget, SourceTrace, TopK

TEXT = "def wrap(text, width=70):\n    return width  # é 🙂"
PAIRS = [(s, t) for s in LOSSLESS for t in LOSSLESS]


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("complete", [(True, True), (True, False), (False, True)])
def test_rows_that_begin_at_one_byte_carry_the_sources_probabilities_by_rank(
    source: str, target: str, complete: tuple[bool, bool]
) -> None:
    trace = random_trace(surface(source), TEXT, 6, is_complete=complete[0])
    order = np.random.default_rng(0).permutation(6)  # a trace need not be sorted
    shuffled = SourceTrace(
        trace.input_ids, trace.ends, TopK(trace.topk.ids[:, order], trace.topk.log_probs[:, order]), trace.nll
    )
    tokens = surface(target).tokenize(TEXT, complete[1])
    aligned = rank_matched(TokenizerPair(surface(source), surface(target)))(shuffled, tokens, TEXT.encode())
    assert aligned.is_by_rank
    for t, end in enumerate(tokens.ends):
        serving = [u for u in range(len(trace.ends) - 1) if trace.ends[u] == end]
        is_last = t == len(tokens.ends) - 1
        is_row_of_eos = complete[1] and t == len(tokens.ends) - 2
        if is_last or not serving or (is_row_of_eos and not complete[0]):
            assert not aligned.is_aligned[t]
            continue
        assert aligned.is_aligned[t]
        assert aligned.topk.ids[t].tolist() == list(range(6))
        assert aligned.topk.log_probs[t].tolist() == sorted(trace.topk.log_probs[serving[-1]].tolist(), reverse=True)
        np.testing.assert_allclose(np.exp(aligned.topk.log_probs[t]).sum() + aligned.tail[t], 1, atol=1e-6)


def test_what_the_target_has_no_rank_for_is_tail() -> None:
    small = toy_surface(["a", "b"], [])
    trace, tokens = random_trace(surface("neox"), "ab", 10), small.tokenize("ab")
    aligned = rank_matched(TokenizerPair(surface("neox"), small))(trace, tokens, b"ab")
    assert aligned.topk.ids.max() < small.vocabulary_size
    np.testing.assert_allclose(aligned.tail[0], 1 - np.exp(trace.topk.log_probs[0, :3]).sum(), rtol=1e-5)


def test_a_document_of_bos_alone_is_not_aligned() -> None:
    trace, tokens = random_trace(surface("neox"), "", 5, is_complete=False), surface("llama").tokenize("")
    aligned = rank_matched(TokenizerPair(surface("neox"), surface("llama")))(trace, tokens, b"")
    assert not aligned.is_aligned.any()


def test_rank_k_is_the_targets_own_kth_token() -> None:
    """Slot by slot; ids stay unique, the probabilities stay as they are."""
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ids = torch.tensor([[[2, 0, 1, 0]] * 3] * 2)
    log_probs = torch.tensor([0.2, 0.5, 0.1, 0.0]).log().expand(2, 3, 4).contiguous()
    nobody = torch.zeros(2, 3)
    fused = FusedTarget(TopK(ids, log_probs), nobody + 0.2, nobody[:, None], nobody == 0)
    got = ranks_to_ids(fused, logits)
    for b in range(2):
        for t in range(3):
            best_first = sorted(range(7), key=lambda i: -float(logits[b, t, i].detach()))
            assert got.topk.ids[b, t, :3].tolist() == [best_first[2], best_first[0], best_first[1]]
    assert torch.equal(got.topk.log_probs, log_probs)
    assert float(got.topk.log_probs[0, 0, 3]) == EMPTY
    assert not got.topk.ids.requires_grad
