"""The sparse losses against a dense, row-by-row float64 oracle; values and gradients."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_for_tests import ATOL, RTOL, K, N, V, oracle, random_case, target, top_k_of
from torch import Tensor
from torch.nn import functional as F

from knowfuse.losses import Form, FusedLoss, Gate, LinearHead, fused_linear_loss, token_nll
from knowfuse.types import EMPTY, IGNORE, FusedTarget

FORMS: list[Form] = ["tail", "renormalised"]


def fused_loss(logits: Tensor, labels: Tensor, fused: FusedTarget | None, **options: Any) -> FusedLoss:
    """On logits: they are hidden states of a head that changes nothing."""
    head = LinearHead(torch.eye(logits.shape[-1], dtype=logits.dtype))
    return fused_linear_loss(logits, head, labels, fused, chunk_rows=5, **options)


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def loss_of(fused: FusedTarget, logits: Tensor, labels: Tensor | None = None, lm_weight: float = 0.0) -> FusedLoss:
    return fused_loss(
        logits, torch.zeros(len(logits), dtype=torch.int64) if labels is None else labels, fused, lm_weight=lm_weight
    )


@pytest.mark.parametrize("lm_weight", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("gate", ["none", "better"])
@pytest.mark.parametrize("form", FORMS)
def test_value_and_gradient_against_dense_oracle(form: Form, gate: Gate, lm_weight: float) -> None:
    for seed in range(3):
        logits, labels, fused = random_case(seed)
        got = fused_loss(logits, labels, fused, lm_weight=lm_weight, form=form, gate=gate)
        want = oracle(logits, labels, fused, lm_weight, form, gate)
        torch.testing.assert_close(got.total, want, rtol=RTOL, atol=ATOL)
        torch.testing.assert_close(gradient(got.total, logits), gradient(want, logits), rtol=RTOL, atol=ATOL)


def test_parts_are_the_oracle_at_the_ends_of_lambda() -> None:
    logits, labels, fused = random_case()
    got = fused_loss(logits, labels, fused, lm_weight=0.3)
    torch.testing.assert_close(got.clm, oracle(logits, labels, fused, 1.0, "tail", "none"), rtol=RTOL, atol=ATOL)
    torch.testing.assert_close(got.kl, oracle(logits, labels, fused, 0.0, "tail", "none"), rtol=RTOL, atol=ATOL)
    # 12 labelled rows; one has no target and one no slot
    torch.testing.assert_close(got.fused_share, torch.tensor(10 / 12), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form: Form) -> None:
    """The hand-written backward against finite differences of float64, eps 1e-6."""
    logits, labels, fused = random_case(1)
    total = lambda x: fused_loss(x, labels, fused, lm_weight=0.4, form=form).total  # noqa: E731
    assert torch.autograd.gradcheck(total, (logits,), eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_label_are_exactly_zero(form: Form) -> None:
    logits, labels, fused = random_case()
    total = fused_loss(logits, labels, fused, lm_weight=0.5, form=form).total
    grad = gradient(total, logits)
    assert torch.equal(grad[labels == IGNORE], torch.zeros(2, V, dtype=torch.float64))
    assert (grad[labels != IGNORE] != 0).any(-1).all()
    other = torch.where((labels == IGNORE)[:, None], 7.0, logits)
    assert torch.equal(fused_loss(other, labels, fused, lm_weight=0.5, form=form).total, total)


@pytest.mark.parametrize("with_target", [True, False])
def test_a_batch_without_labels_costs_exactly_nothing(with_target: bool) -> None:
    logits, labels, fused = random_case()
    got = fused_loss(logits, torch.full_like(labels, IGNORE), fused if with_target else None, lm_weight=0.5)
    assert torch.equal(got.total, torch.zeros_like(got.total))
    assert torch.equal(gradient(got.total, logits), torch.zeros_like(logits))


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_target_carry_only_clm(form: Form) -> None:
    """Rows 6 (no target) and 8 (no slot) against softmax - one_hot; no NaN, though row 6 holds NaN."""
    logits, labels, fused = random_case()
    grad = gradient(fused_loss(logits, labels, fused, lm_weight=0.25, form=form).total, logits)
    for n in (6, 8):
        want = 0.25 * (logits[n].softmax(-1) - F.one_hot(labels[n], V)) / (labels != IGNORE).sum()
        torch.testing.assert_close(grad[n], want, rtol=1e-12, atol=1e-15)  # float64 throughout


@pytest.mark.parametrize("form", FORMS)
def test_no_fused_target_equals_targets_nowhere(form: Form) -> None:
    logits, labels, fused = random_case()
    fused.has_target[:] = False
    nowhere = fused_loss(logits, labels, fused, lm_weight=0.3, form=form)
    none = fused_loss(logits, labels, None, lm_weight=0.3, form=form)
    want = 0.3 * F.cross_entropy(logits, labels, ignore_index=IGNORE)
    for got in (nowhere, none):
        torch.testing.assert_close(got.total, want, rtol=1e-12, atol=0.0)  # float64 throughout
        torch.testing.assert_close(gradient(got.total, logits), gradient(want, logits), rtol=1e-12, atol=1e-15)
        assert got.kl == 0
        assert got.fused_share == 0


@pytest.mark.parametrize("form", FORMS)
def test_empty_slots_change_nothing(form: Form) -> None:
    """The same target with and without three empty slots among the filled ones."""
    logits, labels, fused = random_case()
    fused.topk.log_probs[0, [6, 7, 8]] = fused.topk.log_probs[0, [1, 2, 3]]
    fused.topk.ids[0, [6, 7, 8]] = fused.topk.ids[0, [1, 2, 3]]
    order = torch.tensor([4, 0, 1, 5, 2, 3, 6])
    ids = torch.cat([fused.topk.ids[0], torch.tensor([[-7, 0, 10**12]]).expand(N, 3)], -1)[:, order]
    log_probs = torch.cat([fused.topk.log_probs[0], torch.full((N, 3), EMPTY)], -1)[:, order]
    wider = target(ids, log_probs, fused.tail[0], fused.has_target[0])
    one, other = (fused_loss(logits, labels, x, lm_weight=0.5, form=form).total for x in (fused, wider))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0.0)  # float32 p, summed in another order
    torch.testing.assert_close(gradient(one, logits), gradient(other, logits), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("tail", [0.0, 1e-7])
def test_slots_that_cover_the_vocabulary_leave_the_full_kl(tail: float) -> None:
    """Dense KL; a tail of rounding errors has nothing left to stand for."""
    logits, labels, _ = random_case()
    p = torch.randn(N, V, generator=torch.Generator().manual_seed(5), dtype=torch.float64).softmax(-1)
    fused = top_k_of(p, V)
    fused.tail[:] = tail
    got = loss_of(fused, logits, labels.clamp(min=0))
    want = F.kl_div(logits.log_softmax(-1), p, reduction="batchmean")
    torch.testing.assert_close(got.total, want, rtol=RTOL, atol=ATOL)
    torch.testing.assert_close(gradient(got.total, logits), gradient(want, logits), rtol=RTOL, atol=ATOL)


def test_no_tail_is_the_dense_kl_of_a_sparse_distribution() -> None:
    logits, labels, fused = random_case()
    p = torch.zeros(N, V, dtype=torch.float64)
    p[:, 2:5] = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    ids, log_probs = torch.arange(2, 5).expand(N, 3), p[:, 2:5].log().float()
    fused = target(ids, log_probs, torch.zeros(N))
    want = F.kl_div(logits.log_softmax(-1), p, reduction="batchmean")
    for form in FORMS:
        got = fused_loss(logits, labels.clamp(min=0), fused, lm_weight=0.0, form=form).total
        torch.testing.assert_close(got, want, rtol=RTOL, atol=ATOL)
        torch.testing.assert_close(gradient(got, logits), gradient(want, logits), rtol=RTOL, atol=ATOL)


def test_renormalised_is_the_dense_kl_of_the_scaled_top_k() -> None:
    logits, labels, _ = random_case()
    p = torch.randn(N, V, generator=torch.Generator().manual_seed(5), dtype=torch.float64).softmax(-1)
    kept = torch.where(p >= p.topk(K).values[:, -1:], p, 0.0)
    got = fused_loss(logits, labels.clamp(min=0), top_k_of(p, K), lm_weight=0.0, form="renormalised").total
    want = F.kl_div(logits.log_softmax(-1), kept / kept.sum(-1, keepdim=True), reduction="batchmean")
    torch.testing.assert_close(got, want, rtol=RTOL, atol=ATOL)


def test_gate_counts_the_rows_where_the_fused_target_knows_better() -> None:
    """q of token 0 is 1/2 in every row; the fused target gives it 0.6, 0.4, an unknown part of its tail."""
    logits = torch.tensor([[0.0, 0.0]] * 3, dtype=torch.float64).log_softmax(-1)
    ids = torch.tensor([[0], [0], [1]])
    p = torch.tensor([[0.6], [0.4], [0.1]])
    fused = target(ids, p.log(), 1 - p[:, 0])
    got = fused_loss(logits, torch.zeros(3, dtype=torch.int64), fused, lm_weight=0.0, gate="better")
    want = (0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)) / 3
    torch.testing.assert_close(got.kl, torch.tensor(want, dtype=torch.float64), rtol=RTOL, atol=0.0)
    torch.testing.assert_close(got.fused_share, torch.tensor(1 / 3), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("lm_weight", [-0.1, 1.1, float("nan")])
def test_lambda_outside_the_unit_interval_is_refused(lm_weight: float) -> None:
    logits, labels, fused = random_case()
    with pytest.raises(ValueError, match=rf"lm_weight.*must lie in \[0, 1\], got {lm_weight}"):
        fused_loss(logits, labels, fused, lm_weight=lm_weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_fused_target_cast_down_is_refused(dtype: torch.dtype) -> None:
    """As a precision plugin does it: on the fields, after construction."""
    logits, labels, fused = random_case()
    fused.tail = fused.tail.to(dtype)
    with pytest.raises(ValueError, match=f"must stay float32, got torch.float32 with tail {dtype}"):
        fused_loss(logits, labels, fused, lm_weight=0.5)
    fused.topk.log_probs = fused.topk.log_probs.to(dtype)
    with pytest.raises(ValueError, match=f"must stay float32, got {dtype}"):
        fused_loss(logits, labels, fused, lm_weight=0.5)


@pytest.mark.parametrize("gap", [5.0, 20.0, 60.0, 300.0])
@pytest.mark.parametrize("tail", [1e-12, 1e-3, 0.5])
def test_a_tiny_q_tail_has_no_cancellation(gap: float, tail: float) -> None:
    """float32 logits against the oracle in float64; 1 - sum(q) would be 0 from a gap of 17 nats on.

    A logit of 300 is known to 3e-5, so log q_tail has a relative error of about 1e-7; a few roundings more.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, V, generator=generator)
    logits[:, 3:] -= gap
    logits.requires_grad_()
    exact = logits.detach().double().requires_grad_()
    p = torch.tensor([0.5, 0.3, 0.2]) * (1 - tail)
    fused = target(torch.arange(3).expand(6, 3), p.log().expand(6, 3), torch.full((6,), tail))
    labels = torch.zeros(6, dtype=torch.int64)
    got = fused_loss(logits, labels, fused, lm_weight=0.0).total
    rest = exact[:, 3:].logsumexp(-1) - exact.logsumexp(-1)
    double = p.double()
    slots = (double * (double.log() - exact.log_softmax(-1)[:, :3])).sum(-1)
    want = (slots + tail * (math.log(tail) - rest)).mean()
    torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=2e-7)
    torch.testing.assert_close(gradient(got, logits).double(), gradient(want, exact), rtol=2e-6, atol=2e-7)


@given(seed=st.integers(0, 2**31 - 1), k=st.integers(1, V), sharp_p=st.floats(0.1, 8.0), sharp_q=st.floats(0.1, 8.0))
@settings(max_examples=100)
def test_sparse_kl_is_never_negative_and_at_most_the_full_kl(seed: int, k: int, sharp_p: float, sharp_q: float) -> None:
    """Row by row, up to the rounding of a float32 p that sums to 1 within 1e-6."""
    generator = torch.Generator().manual_seed(seed)
    p = (sharp_p * torch.randn(4, V, generator=generator, dtype=torch.float64)).softmax(-1)
    logits = sharp_q * torch.randn(4, V, generator=generator, dtype=torch.float64)
    for n in range(4):
        full = F.kl_div(logits[n].log_softmax(-1), p[n], reduction="sum")
        sparse = loss_of(top_k_of(p[n : n + 1], k), logits[n : n + 1]).kl
        assert -1e-6 <= float(sparse) <= float(full) * (1 + 1e-6) + 1e-5


def test_the_target_that_the_llm_already_is_costs_nothing() -> None:
    logits, _, _ = random_case()
    got = loss_of(top_k_of(logits.detach().softmax(-1), K), logits).total
    torch.testing.assert_close(got, torch.zeros_like(got), rtol=0.0, atol=1e-6)  # float32 p
    torch.testing.assert_close(gradient(got, logits), torch.zeros_like(logits), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("with_target", [True, False])
def test_bfloat16_logits_are_reduced_in_float32(with_target: bool) -> None:
    """The value is that of the same numbers in float32, bit by bit; the gradient is rounded to bfloat16 twice, by 2^-8 each."""
    logits, labels, fused = random_case()
    half = logits.detach().bfloat16().requires_grad_()
    single = half.detach().float().requires_grad_()
    got, want = (fused_loss(x, labels, fused if with_target else None, lm_weight=0.5).total for x in (half, single))
    assert torch.equal(got, want)
    torch.testing.assert_close(gradient(got, half).float(), gradient(want, single), rtol=2**-7, atol=0.0)


def test_logits_are_left_as_they_are_and_backward_repeats() -> None:
    logits, labels, fused = random_case()
    before = logits.detach().clone()
    total = fused_loss(logits, labels, fused, lm_weight=0.5).total
    first = gradient(total, logits)
    assert torch.equal(gradient(total, logits), first)
    assert torch.equal(logits.detach(), before)


def test_token_nll_is_cross_entropy_in_nats_and_zero_without_label() -> None:
    logits, labels, _ = random_case()
    got = token_nll(logits.detach().float(), labels)
    want = [
        0.0 if y == IGNORE else -float(logits[n].detach().log_softmax(-1)[y]) for n, y in enumerate(labels.tolist())
    ]
    torch.testing.assert_close(got, torch.tensor(want), rtol=1e-5, atol=1e-6)  # float32
    assert torch.equal(got[labels == IGNORE], torch.zeros(2))
