"""What may stand in the forward KL's place, softened or not, against the dense float64 oracle; what each promises of itself."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_for_tests import ATOL, RTOL, K, N, V, oracle, random_case, target, top_k_of
from torch import Tensor
from torch.nn import functional as F

from knowfuse.losses import Divergence, Gate, LinearHead, fused_linear_loss
from knowfuse.losses.divergences import LEAST_TAIL
from knowfuse.losses.linear import MOST_CLM_OVER_KL
from knowfuse.losses.softened import LEAST, MOST
from knowfuse.types import IGNORE, FusedTarget, TopK

OTHERS: list[dict[str, Any]] = [
    {"divergence": "reverse_kl"},
    {"divergence": "jensen_shannon"},
    {"divergence": "jensen_shannon", "beta": 0.1},
    {"divergence": "jensen_shannon", "form": "renormalised"},
    {"temperature": 2.0},
    {"temperature": 0.5, "form": "renormalised"},
    {"divergence": "reverse_kl", "temperature": 3.0},
    {"divergence": "jensen_shannon", "beta": 0.9, "temperature": 0.7},
]
ids = [" ".join(str(value) for value in options.values()) for options in OTHERS]


def loss(logits: Tensor, labels: Tensor, fused: FusedTarget, padding: int = 0, **options: Any) -> Any:
    """On logits: they are hidden states of a head that changes nothing."""
    width = logits.shape[-1]
    head = LinearHead(torch.eye(width, dtype=logits.dtype), vocabulary_size=width - padding)
    return fused_linear_loss(logits, head, labels, fused, **{"lm_weight": 0.0, "chunk_rows": 5, **options})


def padded(logits: Tensor) -> Tensor:
    """Three columns of padding more, one of them likely."""
    return torch.cat([logits, torch.tensor([1.0, -2.0, 3.0], dtype=logits.dtype).expand(N, 3)], 1).detach()


def repeated(times: int) -> tuple[Tensor, Tensor, FusedTarget]:
    logits, labels, fused = random_case()
    parts = (fused.topk.ids, fused.topk.log_probs, fused.tail, fused.has_target)
    again = target(*(x[0].repeat(times, *[1] * (x.ndim - 2)) for x in parts))
    return logits.detach().repeat(times, 1).requires_grad_(), labels.repeat(times), again


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("gate", ["none", "better"])
@pytest.mark.parametrize("options", OTHERS, ids=ids)
def test_value_and_gradient_against_the_dense_oracle(options: dict[str, Any], gate: Gate, padding: int) -> None:
    for seed in range(2):
        logits, labels, fused = random_case(seed)
        if padding:
            logits = padded(logits).requires_grad_()
        got = loss(logits, labels, fused, padding, lm_weight=0.3, gate=gate, **options)
        more = {name: value for name, value in options.items() if name != "form"}
        want = oracle(logits, labels, fused, 0.3, options.get("form", "tail"), gate, V, **more)
        torch.testing.assert_close(got.total, want, rtol=RTOL, atol=ATOL)
        mine, its = (torch.autograd.grad(x, logits)[0] for x in (got.total, want))
        torch.testing.assert_close(mine, its, rtol=RTOL, atol=ATOL)
        torch.testing.assert_close(0.3 * got.clm + 0.7 * got.kl, got.total.detach(), rtol=1e-12, atol=0.0)


@given(seed=st.integers(0, 2**31 - 1), k=st.integers(1, V), sharp_p=st.floats(0.1, 6.0), sharp_q=st.floats(0.1, 6.0))
@settings(max_examples=60)
def test_over_buckets_no_divergence_is_negative_or_more_than_over_all_tokens(
    seed: int, k: int, sharp_p: float, sharp_q: float
) -> None:
    """Row by row, up to the rounding of a float32 p; the Jensen-Shannon divergence is at most log 2 at beta 0.5 besides."""
    generator = torch.Generator().manual_seed(seed)
    p = (sharp_p * torch.randn(1, V, generator=generator, dtype=torch.float64)).softmax(-1)
    logits = sharp_q * torch.randn(1, V, generator=generator, dtype=torch.float64)
    q, label = logits.softmax(-1), torch.zeros(1, dtype=torch.int64)
    m = (p + q) / 2
    full = {
        "reverse_kl": (q * (q / p).log()).sum(),
        "jensen_shannon": ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2,
    }
    for divergence, most in full.items():
        kl = float(loss(logits, label, top_k_of(p, k), divergence=divergence).kl)
        assert -1e-6 <= kl <= float(most) * (1 + 1e-6) + 1e-5
    assert kl <= math.log(2) + 1e-6


@pytest.mark.parametrize("divergence", ["reverse_kl", "jensen_shannon"])
def test_slots_that_cover_the_vocabulary_leave_the_full_divergence(divergence: Divergence) -> None:
    logits, labels, _ = random_case()
    p = torch.randn(N, V, generator=torch.Generator().manual_seed(5), dtype=torch.float64).softmax(-1)
    got = loss(logits, labels.clamp(min=0), top_k_of(p, V), divergence=divergence).total
    q = logits.softmax(-1)
    m = (p + q) / 2
    wanted = {
        "reverse_kl": F.kl_div(p.log(), q, reduction="batchmean"),
        "jensen_shannon": (F.kl_div(m.log(), p, reduction="batchmean") + F.kl_div(m.log(), q, reduction="batchmean"))
        / 2,
    }
    torch.testing.assert_close(got, wanted[divergence], rtol=RTOL, atol=ATOL)
    mine, its = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (got, wanted[divergence]))
    torch.testing.assert_close(mine, its, rtol=RTOL, atol=ATOL)


def test_jensen_shannon_tends_to_both_kls_at_its_ends() -> None:
    """D / beta and D / (1 - beta); GKD, arXiv 2306.13649, section 3."""
    logits, labels, _ = random_case()
    fused = top_k_of(torch.randn(N, V, generator=torch.Generator().manual_seed(5), dtype=torch.float64).softmax(-1), K)
    for beta, share, end in ((1e-6, 1e-6, "forward_kl"), (1 - 1e-6, 1e-6, "reverse_kl")):
        near = loss(logits, labels, fused, divergence="jensen_shannon", beta=beta).kl / share
        torch.testing.assert_close(
            near, loss(logits, labels, fused, divergence=end).kl, rtol=5e-3, atol=0.0
        )  # p sums to 1 within 1e-7


def test_a_tail_of_nothing_is_dear_to_the_reverse_kl_and_finite() -> None:
    """All mass in one slot: the target LLM's half outside it is charged log(1/2 / 1e-6)."""
    logits = torch.zeros(1, 2, dtype=torch.float64).requires_grad_()
    fused = target(torch.tensor([[0]]), torch.zeros(1, 1), torch.zeros(1))
    got = loss(logits, torch.zeros(1, dtype=torch.int64), fused, divergence="reverse_kl").total
    want = 0.5 * math.log(0.5) + 0.5 * math.log(0.5 / LEAST_TAIL)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0.0)
    assert torch.isfinite(torch.autograd.grad(got, logits)[0]).all()


@pytest.mark.parametrize("options", OTHERS, ids=ids)
@pytest.mark.parametrize("gap", [20.0, 300.0])
def test_a_tiny_q_tail_leaves_all_finite_in_float32(options: dict[str, Any], gap: float) -> None:
    """Against the same in float64: a logit of 300 is known to 3e-5."""
    logits = torch.randn(6, V, generator=torch.Generator().manual_seed(0))
    logits[:, 3:] -= gap
    p = torch.tensor([0.5, 0.3, 0.2]) * 0.999
    fused = target(torch.arange(3).expand(6, 3), p.log().expand(6, 3), torch.full((6,), 0.001))
    labels = torch.zeros(6, dtype=torch.int64)
    single, double = logits.clone().requires_grad_(), logits.double().requires_grad_()
    one, other = (loss(x, labels, fused, lm_weight=0.2, **options).total for x in (single, double))
    torch.testing.assert_close(one.double(), other, rtol=2e-5, atol=2e-6)
    grads = [torch.autograd.grad(x, y)[0].double() for x, y in ((one, single), (other, double))]
    torch.testing.assert_close(*grads, rtol=2e-4, atol=2e-6)


# ---- the temperature ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_the_tail_is_softened_as_if_spread_evenly(temperature: float) -> None:
    """Where it really is, no more is known of it, and the whole is the dense softened KL of Hinton et al. with its T^2."""
    logits, labels, _ = random_case()
    p = torch.full((N, V), 0.2 / (V - K), dtype=torch.float64)
    p[:, :K] = torch.tensor([0.4, 0.2, 0.15, 0.05], dtype=torch.float64)
    even = logits.detach().clone()
    even[:, K:] = 0.3  # the target LLM's tail is even too: one bucket of it loses nothing
    got = loss(even, labels.clamp(min=0), top_k_of(p, K), temperature=temperature).kl
    soft = (p.log() / temperature).softmax(-1)
    want = temperature**2 * F.kl_div((even / temperature).log_softmax(-1), soft, reduction="batchmean")
    torch.testing.assert_close(got, want, rtol=2 * RTOL, atol=2e-6)  # float32 p, times 16


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
@pytest.mark.parametrize("temperature", [LEAST, 0.5, 3.0, MOST])
def test_a_target_llm_that_is_the_target_costs_nothing_at_any_temperature(
    temperature: float, divergence: Divergence
) -> None:
    """However uneven its tail, of which no trace tells: in float32, beside 900 tokens that no slot holds."""
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(N, 900 + K, generator=generator)
    labels, fused = torch.zeros(N, dtype=torch.int64), top_k_of(logits.double().softmax(-1), K)
    logits.requires_grad_()
    got = loss(logits, labels, fused, temperature=temperature, divergence=divergence).total
    torch.testing.assert_close(got, torch.zeros_like(got), rtol=0.0, atol=1e-6)
    grad = torch.autograd.grad(got, logits)[0]
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0.0, atol=1e-6)


def test_a_temperature_of_1_is_the_loss_without_one() -> None:
    logits, labels, fused = random_case()
    assert torch.equal(loss(logits, labels, fused, temperature=1.0).total, loss(logits, labels, fused).total)


def test_a_hot_temperature_compares_logits() -> None:
    """T^2 KL tends to half the squared distance of centred logits over V: Hinton et al., arXiv 1503.02531, section 2.1."""
    generator = torch.Generator().manual_seed(0)
    logits, wanted = (torch.randn(1, V, generator=generator, dtype=torch.float64) for _ in range(2))
    got = loss(logits, torch.zeros(1, dtype=torch.int64), top_k_of(wanted.softmax(-1), V), temperature=MOST).kl
    apart = (logits - logits.mean()) - (wanted - wanted.mean())
    torch.testing.assert_close(got, apart.square().sum() / (2 * V), rtol=1e-3, atol=0.0)  # what is next is 1 / T of it


def test_a_softened_chunk_of_any_size_is_the_same() -> None:
    """In float64, sums in another order."""
    logits, labels, fused = repeated(6)
    one, other = (loss(logits, labels, fused, lm_weight=0.3, temperature=2.0, chunk_rows=n) for n in (3, 84))
    for name in ("total", "clm", "kl", "fused_share"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-12, atol=0.0)
    mine, its = (torch.autograd.grad(x.total, logits)[0] for x in (one, other))
    torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-14)


# ---- the balance -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"gate": "better"}, {"divergence": "reverse_kl", "temperature": 2.0}])
def test_match_clm_scales_the_kl_by_the_ratio_without_gradient(options: dict[str, Any]) -> None:
    logits, labels, fused = random_case()
    got = loss(logits, labels, fused, lm_weight=0.3, balance="match_clm", **options)
    gate = options.get("gate", "none")
    more = {name: value for name, value in options.items() if name != "gate"}
    clm, kl = (oracle(logits, labels, fused, lm_weight, "tail", gate, **more).detach() for lm_weight in (1.0, 0.0))
    want = oracle(logits, labels, fused, 0.3, "tail", gate, **more, scale=float(clm / kl))
    torch.testing.assert_close(got.kl_scale, clm / kl, rtol=RTOL, atol=0.0)
    torch.testing.assert_close(got.total, want, rtol=RTOL, atol=ATOL)
    torch.testing.assert_close(got.total.detach(), clm, rtol=RTOL, atol=ATOL)  # both terms are as large as CLM
    torch.testing.assert_close(got.kl, kl, rtol=RTOL, atol=ATOL)
    mine, its = (torch.autograd.grad(x, logits)[0] for x in (got.total, want))
    torch.testing.assert_close(mine, its, rtol=RTOL, atol=ATOL)


def test_of_many_rows_every_so_many_th_fused_one_and_other_one_decide_the_ratio() -> None:
    """840 rows, 660 with a label and fused, of which it is each sixth, and 60 with a label alone, all of which are looked at."""
    many, marks, wide = repeated(60)
    many = many.detach() + 0.5 * torch.randn(
        many.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    is_fused = wide.has_target[0]
    some, others = torch.nonzero((marks != IGNORE) & is_fused)[::6, 0], (marks != IGNORE) & ~is_fused
    few = target(*(x[0][some] for x in (wide.topk.ids, wide.topk.log_probs, wide.tail, wide.has_target)))
    got = loss(many, marks, wide, lm_weight=0.3, balance="match_clm").kl_scale
    its = loss(many[some], marks[some], few, lm_weight=0.3)
    clm = its.clm * 660 + F.cross_entropy(many[others], marks[others], reduction="sum")
    torch.testing.assert_close(got, clm / (its.kl * 660), rtol=RTOL, atol=0.0)  # nats of the others are float32


@pytest.mark.parametrize("every", [20, 200])
def test_few_fused_rows_among_many_decide_the_ratio_all_the_same(every: int) -> None:
    """Of 4,200 rows one in so many is fused, where of 128 evenly spaced over all none might be."""
    many, marks, wide = repeated(300)
    order = torch.randperm(len(marks), generator=torch.Generator().manual_seed(0))
    few = torch.zeros(len(marks), dtype=torch.bool)
    few[1::every] = True
    parts = (wide.topk.ids[0], wide.topk.log_probs[0], wide.tail[0], wide.has_target[0])
    ids, log_probs, tail, has_target = (x[order] for x in parts)
    sparse = target(ids, log_probs, tail, few & has_target)
    got = loss(many.detach()[order], marks[order], sparse, lm_weight=0.3, balance="match_clm")
    torch.testing.assert_close(got.kl_scale * got.kl, got.clm, rtol=0.2, atol=0.0)  # by 128 rows of each kind


def test_a_kl_of_nothing_is_no_number_to_divide_by() -> None:
    """No row acts, or the target LLM is the fused target already: the scale is bounded, the loss CLM's."""
    logits, labels, fused = random_case()
    nowhere = replace(fused, has_target=torch.zeros_like(fused.has_target), weights=torch.zeros_like(fused.weights))
    for its, scale in ((nowhere, 1.0), (top_k_of(logits.detach().softmax(-1), K), MOST_CLM_OVER_KL)):
        got = loss(logits, labels, its, lm_weight=0.5, balance="match_clm")
        assert float(got.kl_scale) == scale
        assert torch.isfinite(torch.autograd.grad(got.total, logits)[0]).all()
    assert loss(logits, labels, nowhere, lm_weight=0.5, balance="match_clm").total.item() == pytest.approx(
        0.5 * oracle(logits, labels, None, 1.0, "tail", "none").item(), rel=1e-12
    )


def test_a_gate_that_is_shut_on_all_rows_looked_at_scales_nothing() -> None:
    """The target LLM is sure of every label: the gate is open nowhere."""
    logits, labels, fused = random_case()
    sure = logits.detach().clone()
    sure[torch.arange(N), labels.clamp(min=0)] = 50.0
    got = loss(sure, labels, fused, lm_weight=0.5, balance="match_clm", gate="better")
    assert (float(got.kl_scale), float(got.fused_share)) == (1.0, 0.0)


def test_ids_by_rank_decide_the_ratio_too() -> None:
    logits, labels, fused = random_case()
    by_rank = replace(fused, topk=TopK(torch.arange(K).expand(1, N, K), fused.topk.log_probs))

    def resolve(part: FusedTarget, logits: Tensor) -> FusedTarget:
        return replace(part, topk=TopK(logits.topk(K).indices, part.topk.log_probs))

    known = resolve(by_rank, logits.detach()[None])
    got, want = (
        loss(logits, labels, x, lm_weight=0.3, balance="match_clm", resolve=r).total
        for x, r in ((by_rank, resolve), (known, None))
    )
    assert torch.equal(got, want)


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"temperature": 0.0},
            r"loss\.temperature is 0\.0: it divides logits, and must lie between 0\.01 and 1000; 1 ch",
        ),
        ({"temperature": 1e4}, r"loss\.temperature is 10000\.0: it divides"),
        ({"temperature": -1.0}, r"loss\.temperature is -1\.0: it divides"),
        ({"temperature": math.nan}, r"loss\.temperature is nan: it divides"),
        ({"temperature": math.inf}, r"loss\.temperature is inf: it divides"),
        (
            {"beta": 0.0},
            r"loss\.beta is 0\.0: .* between 0 and 1; at its ends set loss\.divergence to forward_kl \(0\) or rev",
        ),
        ({"beta": 1.0}, r"loss\.beta is 1\.0: it is the fused target's share"),
        (
            {"divergence": "reverse_kl", "form": "renormalised"},
            r"form=renormalised gives no probability outside the slots, where",
        ),
    ],
)
def test_options_that_make_no_loss_are_refused(options: dict[str, Any], message: str) -> None:
    """By their values, whatever the rows: without a fused target too."""
    logits, labels, _ = random_case()
    with pytest.raises(ValueError, match=message):
        fused_linear_loss(logits, LinearHead(torch.eye(V, dtype=torch.float64)), labels, None, lm_weight=0.5, **options)
