"""Chunks read token by token in Python floats; with the sparse KL a row costs ALM's binary KL."""

import math

import numpy as np
import pytest
import torch
from tokenizers_for_tests import LOSSLESS, random_trace, surface

from knowfuse.alignment.chunk_likelihood import chunk_likelihood
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.slots import require_slots
from knowfuse.losses import fused_linear_loss
from knowfuse.losses.chunked_head import LinearHead
from knowfuse.types import FusedTarget, SourceTrace, TopK

TEXT = "def wrap(text, width=70):\n    return width  # é 🙂"


def without_slots(trace: SourceTrace) -> SourceTrace:
    """The same trace at K = 0."""
    topk = TopK(trace.topk.ids[:, :0], trace.topk.log_probs[:, :0])
    return SourceTrace(trace.input_ids, trace.ends, topk, trace.nll)


@pytest.mark.parametrize("source", LOSSLESS)
@pytest.mark.parametrize("target", LOSSLESS)
@pytest.mark.parametrize("complete", [(True, True), (True, False), (False, True)])
def test_a_row_has_the_probability_of_its_chunk(source: str, target: str, complete: tuple[bool, bool]) -> None:
    trace = without_slots(random_trace(surface(source), TEXT, 5, is_complete=complete[0]))
    tokens = surface(target).tokenize(TEXT, complete[1])
    aligned = chunk_likelihood(TokenizerPair(surface(source), surface(target)))(trace, tokens, TEXT.encode())
    shared = sorted({int(e) for e in trace.ends} & {int(e) for e in tokens.ends})
    for t in range(len(tokens.ends)):
        is_last, is_eos = t == len(tokens.ends) - 1, complete[1] and t == len(tokens.ends) - 2
        if is_last or is_eos:
            assert aligned.is_aligned[t] == (is_eos and complete[0])
            want = float(trace.nll[-2]) if is_eos and complete[0] else None
        else:
            begin, end = int(tokens.ends[t]), int(tokens.ends[t + 1])
            in_chunk = [j for j in range(1, len(tokens.ends) - complete[1]) if begin <= tokens.ends[j] <= end]
            in_chunk = [j for j in in_chunk if tokens.ends[j - 1] >= begin]
            is_chunk = begin < end and begin in shared and end in shared and in_chunk == [t + 1]
            assert aligned.is_aligned[t] == is_chunk
            of_it = [u for u in range(1, len(trace.ends) - complete[0]) if begin < trace.ends[u] <= end]
            of_it += [u for u in range(1, len(trace.ends) - complete[0]) if trace.ends[u] == begin == 0]  # a lone space
            want = math.fsum(float(trace.nll[u - 1]) for u in of_it) if is_chunk else None
        if want is not None:
            assert aligned.topk.ids[t].tolist() == [tokens.input_ids[t + 1]]
            np.testing.assert_allclose(aligned.topk.log_probs[t], [-want], rtol=1e-5)
            np.testing.assert_allclose(math.exp(-want) + aligned.tail[t], 1.0, rtol=0, atol=1e-5)


def test_the_loss_of_a_row_is_the_binary_kl_of_its_chunk() -> None:
    """p log(p / q) + (1 - p) log((1 - p) / (1 - q)), q the target's own probability of the token, in float64."""
    hidden, weight = (torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in (3, 11))
    labels, p = torch.tensor([4, 0, 7]), torch.tensor([0.3, 0.9, 0.01])
    topk = TopK(labels[None, :, None], p.log()[None, :, None])
    fused = FusedTarget(topk, (1 - p)[None], torch.ones(1, 1, 3), torch.ones(1, 3, dtype=torch.bool))
    loss = fused_linear_loss(hidden, LinearHead(weight), labels, fused, lm_weight=0.0)
    q = (hidden.double() @ weight.double().T).softmax(-1).gather(1, labels[:, None])[:, 0]
    want = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(loss.total.double(), want, rtol=1e-5, atol=1e-6)


def test_what_needs_slots_is_refused_without_any() -> None:
    require_slots(chunk_likelihood, 0)
    require_slots(min_edit_distance, 1)
    with pytest.raises(
        ValueError, match=r"alignment 'min_edit_distance' needs .* top_k is 0: set top_k to 1 or more, or "
    ):
        require_slots(min_edit_distance, 0)
