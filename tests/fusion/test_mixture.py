"""Sparse mixtures against dense ones: float64, slot by slot, the tail as one more token."""

import pytest
import torch
from aligned_for_tests import dense, dense_sources, random_block, random_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from knowfuse.fusion.mixture import disagreement, merge_duplicates, mixture, selection
from knowfuse.types import EMPTY, AlignedSources, FusedTarget, TopK

# Probabilities pass through float32 logs of up to 10 in size: 1e-6 relative; sums of a few of them keep that.
RTOL, ATOL = 5e-6, 1e-7


def dense_of(fused: FusedTarget) -> Tensor:
    assert isinstance(fused.tail, Tensor)
    return dense(fused.topk, fused.tail)


def assert_unique_ids(topk: TopK) -> None:
    for ids, log_probs in zip(topk.ids.flatten(0, -2), topk.log_probs.flatten(0, -2), strict=True):  # type: ignore[call-arg]
        filled = ids[log_probs > EMPTY].tolist()
        assert len(filled) == len(set(filled))


@pytest.mark.parametrize("num_sources", [1, 2, 4])
def test_mixture_equals_the_dense_mixture(num_sources: int) -> None:
    block = random_block(num_sources)
    weights = random_weights(block.sources)
    fused = mixture(block.sources, weights)
    want = (weights[..., None].double() * dense_sources(block.sources)).sum(1)
    torch.testing.assert_close(dense_of(fused), want, rtol=RTOL, atol=ATOL)
    assert_unique_ids(fused.topk)
    assert torch.equal(fused.has_target, block.sources.is_aligned.any(1))
    assert torch.equal(fused.weights, weights)
    assert fused.topk.ids.shape == (2, 9, 4 * num_sources)


@pytest.mark.parametrize("num_sources", [1, 2, 4])
def test_selection_equals_the_mixture_with_one_hot_weights(num_sources: int) -> None:
    block = random_block(num_sources)
    chosen = random_weights(block.sources).argmax(1, keepdim=True)
    weights = torch.zeros(2, num_sources, 9).scatter_(1, chosen, 1.0) * block.sources.is_aligned
    one, other = selection(block.sources, weights), mixture(block.sources, weights)
    torch.testing.assert_close(dense_of(one), dense_of(other), rtol=RTOL, atol=ATOL)
    assert torch.equal(one.has_target, other.has_target)
    assert one.topk.ids.shape == (2, 9, 4)


@pytest.mark.parametrize("fuse", [mixture, selection])
def test_rows_without_a_source_have_no_target_and_no_nan(fuse: object) -> None:
    block = random_block(3, aligned_share=0.4)
    nowhere = ~block.sources.is_aligned.any(1)
    assert nowhere.sum() > 2
    first = block.sources.is_aligned & (block.sources.is_aligned.cumsum(1) == 1)
    fused = fuse(block.sources, first.float())  # type: ignore[operator]
    assert not fused.has_target[nowhere].any()
    assert torch.equal(fused.weights.sum(1)[nowhere], torch.zeros(int(nowhere.sum())))
    assert torch.equal(fused.tail[nowhere], torch.zeros(int(nowhere.sum())))
    assert (fused.topk.log_probs[nowhere] == EMPTY).all()
    assert not fused.topk.log_probs.isnan().any()
    assert torch.isfinite(fused.tail).all()


@given(seed=st.integers(0, 2**31 - 1), num_sources=st.integers(1, 5), k=st.integers(1, 13))
@settings(max_examples=50)
def test_mass_is_conserved(seed: int, num_sources: int, k: int) -> None:
    """Slots and tail sum to 1 where there is a target, to 0 elsewhere; a float32 row of sources is within 1e-6."""
    block = random_block(num_sources, seed, k=k)
    fused = mixture(block.sources, random_weights(block.sources, seed))
    mass = dense_of(fused).sum(-1)
    torch.testing.assert_close(mass, fused.has_target.double(), rtol=0.0, atol=2e-6)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.one_of(st.just(EMPTY), st.floats(-20, 0, width=32))), min_size=1, max_size=9
    )
)
def test_merging_keeps_the_mass_of_every_id(slots: list[tuple[int, float]]) -> None:
    """Against a dict of sums; freed and empty slots come last."""
    ids, log_probs = (torch.tensor(x) for x in zip(*slots, strict=True))
    merged = merge_duplicates(TopK(ids, log_probs.float()))
    sums: dict[int, float] = {}
    for i, log_prob in zip(ids.tolist(), log_probs.double(), strict=True):
        if log_prob > EMPTY:
            sums[i] = sums.get(i, 0.0) + float(log_prob.exp())
    filled = merged.log_probs > EMPTY
    got = dict(zip(merged.ids[filled].tolist(), merged.log_probs[filled].double().exp().tolist(), strict=True))
    assert filled.tolist() == [True] * len(sums) + [False] * (len(slots) - len(sums))
    assert got == pytest.approx(sums, rel=RTOL)


@pytest.mark.parametrize("num_sources", [1, 2, 4])
def test_kl_to_several_sources_is_kl_to_their_mixture_plus_a_constant(num_sources: int) -> None:
    """Why every rule makes one target: sum_s w_s KL(p_s || q) = KL(m || q) + sum_s w_s KL(p_s || m)."""
    block = random_block(num_sources)
    weights = random_weights(block.sources).double()
    each, mixed = dense_sources(block.sources), dense_of(mixture(block.sources, weights.float()))
    q = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).softmax(-1)
    several = (weights * kl(each, q[:, None])).sum(1)
    constant = (weights * kl(each, mixed[:, None])).sum(1)
    torch.testing.assert_close(several, kl(mixed, q) + constant, rtol=RTOL, atol=1e-6)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


@pytest.mark.parametrize("num_sources", [1, 2, 4])
def test_disagreement_is_the_dense_jensen_shannon_divergence(num_sources: int) -> None:
    """mean_s KL(p_s || m) over the sources aligned at the row, row by row; 0 where there is one or none."""
    block = random_block(num_sources)
    got, each = disagreement(block.sources), dense_sources(block.sources)
    for b in range(2):
        for t in range(9):
            present = [each[b, s, t] for s in range(num_sources) if block.sources.is_aligned[b, s, t]]
            want = torch.zeros((), dtype=torch.float64)
            if present:
                middle = sum(present) / len(present)
                want = sum(kl(p, middle) for p in present) / len(present)  # type: ignore[assignment]
            torch.testing.assert_close(got[b, t].double(), want, rtol=RTOL, atol=1e-6)  # entropies of about 2, float32


@given(seed=st.integers(0, 2**31 - 1), num_sources=st.integers(1, 5))
@settings(max_examples=30)
def test_disagreement_is_never_negative_and_at_most_the_log_of_how_many(seed: int, num_sources: int) -> None:
    block = random_block(num_sources, seed)
    got = disagreement(block.sources)
    assert (got >= 0).all()
    assert (got <= block.sources.is_aligned.sum(1).clamp(min=1).log() + 2e-6).all()


def test_equal_sources_do_not_disagree() -> None:
    one = random_block(1, aligned_share=1.0).sources
    three = AlignedSources(
        topk=TopK(one.topk.ids.repeat(1, 3, 1, 1), one.topk.log_probs.repeat(1, 3, 1, 1)),
        **{name: getattr(one, name).repeat(1, 3, 1) for name in ("tail", "nll", "source_tokens", "is_aligned")},
    )
    torch.testing.assert_close(disagreement(three), torch.zeros(2, 9), rtol=0.0, atol=2e-6)  # float32 entropies
