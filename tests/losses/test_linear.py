"""The head and the losses chunk by chunk against all logits at once and the row-by-row float64 oracle."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from losses_for_tests import ATOL, RTOL, K, N, V, oracle, random_case, target, top_k_of
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from knowfuse.fusion.avg_ce import avg_ce
from knowfuse.losses import Form, Gate, LinearHead, fused_linear_loss, head_logits, linear_token_nll, token_nll
from knowfuse.types import EMPTY, IGNORE, AlignedSources, FusedTarget, TopK

H = 3
PADDED = V + 3
HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "soft cap": {"soft_cap": 2.0},
    "scale": {"scale": 0.3},
    "all, padded": {"bias": True, "soft_cap": 3.0, "scale": 1.7, "vocabulary_size": V},
}


def make_head(bias: bool = False, dtype: torch.dtype = torch.float64, **settings: Any) -> LinearHead:
    generator = torch.Generator().manual_seed(3)
    rows = PADDED if "vocabulary_size" in settings else V
    weight = torch.randn(rows, H, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    shift = torch.randn(rows, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() if bias else None
    return LinearHead(weight, shift, **settings)


def make_hidden(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(N, H, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def dense_logits(hidden: Tensor, head: LinearHead) -> Tensor:
    """All at once, as the docstring of LinearHead says, differentiable."""
    logits = hidden @ head.weight.t()
    logits = head.scale * (logits if head.bias is None else logits + head.bias)
    return logits if head.soft_cap is None else head.soft_cap * torch.tanh(logits / head.soft_cap)


def leaves(hidden: Tensor, head: LinearHead) -> list[Tensor]:
    return [hidden, head.weight, *([] if head.bias is None else [head.bias])]


@pytest.mark.parametrize("lm_weight", [0.0, 0.9])
@pytest.mark.parametrize("gate", ["none", "better"])
@pytest.mark.parametrize("form", ["tail", "renormalised"])
@pytest.mark.parametrize("name", HEADS)
def test_value_and_gradients_against_the_dense_oracle(name: str, form: Form, gate: Gate, lm_weight: float) -> None:
    hidden, head = make_hidden(), make_head(**HEADS[name])
    for seed in range(2):
        _, labels, fused = random_case(seed)
        got = fused_linear_loss(hidden, head, labels, fused, lm_weight=lm_weight, form=form, gate=gate, chunk_rows=4)
        want = oracle(dense_logits(hidden, head), labels, fused, lm_weight, form, gate, V)
        torch.testing.assert_close(got.total, want, rtol=RTOL, atol=ATOL)
        inputs = leaves(hidden, head)
        for mine, its in zip(*(torch.autograd.grad(x, inputs) for x in (got.total, want)), strict=True):
            torch.testing.assert_close(mine, its, rtol=RTOL, atol=ATOL)


class Anew(torch.autograd.Function):
    """A function whose graph is made anew for each backward pass: gradcheck makes several, the loss allows one."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            return None, *torch.autograd.grad(ctx.function(*inputs), inputs, grad)


@pytest.mark.parametrize("name", HEADS)
def test_gradcheck(name: str) -> None:
    """Against finite differences of float64, eps 1e-6."""
    _, labels, fused = random_case(1)
    head = make_head(**HEADS[name])

    def total(hidden: Tensor, *weights: Tensor) -> Tensor:
        changed = replace(head, weight=weights[0], bias=weights[1] if len(weights) > 1 else None)
        return fused_linear_loss(hidden, changed, labels, fused, lm_weight=0.4, chunk_rows=5).total

    inputs = tuple(leaves(make_hidden(), head))
    assert torch.autograd.gradcheck(lambda *x: Anew.apply(total, *x), inputs, eps=1e-6, atol=1e-8, rtol=1e-6)


def test_a_second_backward_pass_is_an_error_and_no_wrong_gradient() -> None:
    """The gradients are scaled where they are kept."""
    _, labels, fused = random_case(1)
    total = fused_linear_loss(make_hidden(), make_head(), labels, fused, lm_weight=0.4).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("chunk_rows", [1, 3, N - 1, 10**6])
def test_the_size_of_a_chunk_changes_nothing(chunk_rows: int) -> None:
    """float64, sums in another order."""
    hidden, head = make_hidden(), make_head(**HEADS["all, padded"])
    _, labels, fused = random_case()
    one, other = (fused_linear_loss(hidden, head, labels, fused, lm_weight=0.4, chunk_rows=n) for n in (chunk_rows, N))
    for name in ("total", "clm", "kl", "fused_share"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-12, atol=0.0)
    inputs = leaves(hidden, head)
    for mine, its in zip(*(torch.autograd.grad(x.total, inputs) for x in (one, other)), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_and_bfloat16_against_float64(dtype: torch.dtype) -> None:
    """The same numbers in float64. float32: sums of some ten terms, 1e-5. bfloat16: each logit is rounded by 2^-9 of up to 16,
    0.03, and a gradient as much relative to the largest; the head's gradient is summed in float32 and rounded once more."""
    hidden, head = make_hidden(dtype), make_head(**HEADS["all, padded"], dtype=dtype)
    assert head.bias is not None
    exact = replace(head, weight=head.weight.detach().double().requires_grad_())
    exact.bias = head.bias.detach().double().requires_grad_()
    hidden_exact = hidden.detach().double().requires_grad_()
    _, labels, fused = random_case()
    got = fused_linear_loss(hidden, head, labels, fused, lm_weight=0.4, chunk_rows=4).total
    want = oracle(dense_logits(hidden_exact, exact), labels, fused, 0.4, "tail", "none", V)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=0.0)
    grads = torch.autograd.grad(got, leaves(hidden, head))
    for mine, its in zip(grads, torch.autograd.grad(want, leaves(hidden_exact, exact)), strict=True):
        assert mine.dtype == dtype
        assert float((mine.double() - its).abs().max() / its.abs().max()) < tolerance


def test_the_gradient_of_the_head_is_summed_in_float32() -> None:
    """1024 equal rows in chunks of one: in bfloat16 a sum stops growing at 256 times its terms."""
    rows = 1024
    hidden = torch.ones(rows, 1, dtype=torch.bfloat16)
    weight = torch.zeros(4, 1, dtype=torch.bfloat16).requires_grad_()
    labels = torch.zeros(rows, dtype=torch.int64)
    fused_linear_loss(hidden, LinearHead(weight), labels, None, lm_weight=1.0, chunk_rows=1).total.backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad[:, 0].float(), torch.tensor([-0.75, 0.25, 0.25, 0.25]))


def test_under_autocast_products_are_bfloat16_and_gradients_float32() -> None:
    hidden, head = make_hidden(torch.float32), make_head(dtype=torch.float32)
    _, labels, fused = random_case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = fused_linear_loss(hidden, head, labels, fused, lm_weight=0.4).total
    halves = [x.detach().bfloat16().requires_grad_() for x in (hidden, head.weight)]
    want = fused_linear_loss(halves[0], LinearHead(halves[1]), labels, fused, lm_weight=0.4).total
    assert torch.equal(got, want)
    for mine, its in zip(
        torch.autograd.grad(got, [hidden, head.weight]), torch.autograd.grad(want, halves), strict=True
    ):
        assert mine.dtype == torch.float32
        assert torch.equal(mine.bfloat16(), its)


def test_float16_keeps_gradients_that_the_number_of_rows_would_round_to_zero() -> None:
    """A loss scaled up, as a gradient scaler does, after 1/4096 of a softmax of 1e-4."""
    hidden = torch.zeros(4096, 1, dtype=torch.float16).requires_grad_()
    weight = torch.arange(10000.0)[:, None].half().div(10000).requires_grad_()
    labels = torch.zeros(4096, dtype=torch.int64)
    total = fused_linear_loss(hidden, LinearHead(weight), labels, None, lm_weight=1.0).total
    (total * 65536).backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad.float(), torch.full((4096, 1), 0.5 * 65536 / 4096), rtol=2e-3, atol=0.0)


def test_many_sources_with_duplicates_merged() -> None:
    """Three sources' union, K' = 3 K with freed slots, against the oracle."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1, 3, N, V, generator=generator, dtype=torch.float64)
    kept = logits.softmax(-1).topk(K, dim=-1)
    rows = torch.ones(1, 3, N)
    sources = AlignedSources(
        topk=TopK(kept.indices, kept.values.log().float()),
        tail=(1 - kept.values.sum(-1)).float(),
        nll=rows + torch.rand(1, 3, N, generator=generator),
        source_tokens=rows,
        is_aligned=torch.rand(1, 3, N, generator=generator) > 0.2,
    )
    ones = torch.ones(1, N, dtype=torch.int64)
    fused = avg_ce(sources, ones, ones)
    assert fused.topk.ids.shape[-1] == 3 * K
    assert (fused.topk.log_probs == EMPTY).any(-1).all(), "ids were merged"
    hidden, head = make_hidden(), make_head()
    labels = torch.randint(0, V, (N,), generator=generator)
    got = fused_linear_loss(hidden, head, labels, fused, lm_weight=0.2, chunk_rows=4).total
    want = oracle(dense_logits(hidden, head), labels, fused, 0.2, "tail", "none")
    torch.testing.assert_close(got, want, rtol=RTOL, atol=ATOL)
    for mine, its in zip(*(torch.autograd.grad(x, [hidden, head.weight]) for x in (got, want)), strict=True):
        torch.testing.assert_close(mine, its, rtol=RTOL, atol=ATOL)


def test_a_tied_head_gets_both_gradients() -> None:
    """The head is the embedding of the hidden states."""
    head = make_head()
    _, labels, fused = random_case()
    ids = torch.arange(N) % V

    def grad(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, head.weight)[0]

    got = fused_linear_loss(head.weight[ids], head, labels, fused, lm_weight=0.4, chunk_rows=4).total
    want = oracle(dense_logits(head.weight[ids], head), labels, fused, 0.4, "tail", "none")
    torch.testing.assert_close(grad(got), grad(want), rtol=RTOL, atol=ATOL)


def test_a_frozen_head_gets_no_gradient_and_its_body_the_same() -> None:
    hidden, head = make_hidden(), make_head(bias=True)
    _, labels, fused = random_case()
    frozen = LinearHead(*(x.detach() for x in (head.weight, head.bias) if x is not None))
    with Sizes() as sizes:
        got = fused_linear_loss(hidden, frozen, labels, fused, lm_weight=0.4, chunk_rows=2).total
        mine = torch.autograd.grad(got, hidden)[0]
    assert (V, H) not in sizes.shapes, "and no memory for it"
    want = fused_linear_loss(hidden, head, labels, fused, lm_weight=0.4, chunk_rows=2).total
    assert torch.equal(mine, torch.autograd.grad(want, hidden)[0])


def test_a_frozen_body_leaves_the_head_to_learn() -> None:
    hidden, head = make_hidden(), make_head(bias=True)
    _, labels, fused = random_case()
    one = fused_linear_loss(hidden.detach(), head, labels, fused, lm_weight=0.4).total
    other = fused_linear_loss(hidden, head, labels, fused, lm_weight=0.4).total
    for mine, its in zip(*(torch.autograd.grad(x, leaves(hidden, head)[1:]) for x in (one, other)), strict=True):
        assert torch.equal(mine, its)


class LowRank(nn.Module):
    """A frozen weight plus the product of two thin matrices, as LoRA."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.up = nn.Parameter(torch.randn(V, 2, generator=generator, dtype=torch.float64))
        self.down = nn.Parameter(torch.randn(2, H, generator=generator, dtype=torch.float64))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def test_a_low_rank_head_learns_through_its_thin_matrices() -> None:
    layer = nn.Linear(H, V, bias=False, dtype=torch.float64).requires_grad_(False)
    low_rank = LowRank()
    parametrize.register_parametrization(layer, "weight", low_rank)
    _, labels, fused = random_case()
    hidden = make_hidden()
    got = fused_linear_loss(hidden, LinearHead(layer.weight), labels, fused, lm_weight=0.4, chunk_rows=4).total
    want = oracle(layer(hidden), labels, fused, 0.4, "tail", "none")
    thin = [low_rank.up, low_rank.down]
    for mine, its in zip(*(torch.autograd.grad(x, thin) for x in (got, want)), strict=True):
        torch.testing.assert_close(mine, its, rtol=RTOL, atol=ATOL)


def test_padding_is_never_a_target_and_only_loses() -> None:
    """Its gradient is G times its probability, never less: no slot, no label and no part of the tail is there."""
    hidden, head = make_hidden(), make_head(bias=True, vocabulary_size=V)
    labels, fused = torch.zeros(N, dtype=torch.int64), top_k_of(torch.full((N, V), 1 / V, dtype=torch.float64), K)
    assert head.bias is not None
    total = fused_linear_loss(hidden, head, labels, fused, lm_weight=0.4).total
    grad = torch.autograd.grad(total, head.bias)[0]
    probs = dense_logits(hidden, head).softmax(-1)
    torch.testing.assert_close(grad[V:], probs[:, V:].mean(0), rtol=RTOL, atol=0.0)  # G is 1: all mass is among tokens


def test_ids_by_rank_are_resolved_on_each_chunk() -> None:
    """Slots are the target's own k-th tokens, found with all logits in hand; padding is no candidate."""
    hidden, head = make_hidden(), make_head(bias=True, vocabulary_size=V)
    _, labels, fused = random_case()
    fused.topk.ids[0] = torch.arange(K)
    seen: list[tuple[int, ...]] = []

    def resolve(part: FusedTarget, logits: Tensor) -> FusedTarget:
        seen.append(tuple(logits.shape))
        return replace(part, topk=TopK(logits.topk(K).indices, part.topk.log_probs))

    got = fused_linear_loss(hidden, head, labels, fused, lm_weight=0.4, chunk_rows=6, resolve=resolve).total
    ids = dense_logits(hidden, head)[:, :V].topk(K).indices
    known = target(ids, fused.topk.log_probs[0], fused.tail[0], fused.has_target[0])
    want = fused_linear_loss(hidden, head, labels, known, lm_weight=0.4, chunk_rows=6).total
    assert torch.equal(got, want)
    assert seen == [(1, 6, V), (1, 6, V), (1, 2, V)]


class Sizes(TorchDispatchMode):
    """The shapes of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, Tensor):
                self.shapes.add(tuple(x.shape))
        return result


@pytest.mark.parametrize("chunk_rows", [8, 64])
def test_logits_of_more_than_one_chunk_never_exist(chunk_rows: int) -> None:
    """No tensor made on the way has more elements than a chunk of logits, and V is wide: that of 64 rows shows that it would."""
    rows, vocabulary = 64, 1000
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, H, generator=generator).requires_grad_()
    head = LinearHead(torch.randn(vocabulary, H, generator=generator).requires_grad_(), soft_cap=5.0)
    fused = top_k_of(torch.randn(rows, vocabulary, generator=generator).softmax(-1), K)
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    with Sizes() as sizes:
        fused_linear_loss(hidden, head, labels, fused, lm_weight=0.4, chunk_rows=chunk_rows).total.backward()
        linear_token_nll(hidden, head, labels, chunk_rows=chunk_rows)
    wide = {shape for shape in sizes.shapes if vocabulary in shape and H not in shape}
    most = max(torch.Size(shape).numel() for shape in wide)
    assert most == 2 * chunk_rows * vocabulary, "the logits of a chunk, and the slopes of its soft cap"


def test_token_nll_by_chunks_is_that_of_all_logits() -> None:
    hidden, head = make_hidden(torch.float32), make_head(**HEADS["all, padded"], dtype=torch.float32)
    _, labels, _ = random_case()
    got = linear_token_nll(hidden, head, labels, chunk_rows=3)
    torch.testing.assert_close(got, token_nll(dense_logits(hidden, head), labels), rtol=1e-5, atol=1e-6)  # float32
    assert not got.requires_grad


def test_head_logits_are_those_of_the_head() -> None:
    hidden, head = make_hidden(), make_head(**HEADS["all, padded"])
    torch.testing.assert_close(head_logits(hidden, head), dense_logits(hidden, head).detach(), rtol=1e-12, atol=1e-14)


def test_without_gradients_none_are_made() -> None:
    hidden, head = make_hidden(), make_head()
    _, labels, fused = random_case()
    with torch.no_grad(), Sizes() as sizes:
        got = fused_linear_loss(hidden, head, labels, fused, lm_weight=0.4)
    assert (V, H) not in sizes.shapes
    assert not got.total.requires_grad
    assert torch.equal(got.total, fused_linear_loss(hidden, head, labels, fused, lm_weight=0.4).total.detach())


def test_a_chunk_that_does_not_fit_names_one_that_does() -> None:
    """2^50 bytes, which no machine can address."""
    rows, vocabulary = 2**22, 2**26
    hidden, weight = torch.zeros(1, 1).expand(rows, 1), torch.zeros(1, 1).expand(vocabulary, 1)
    labels = torch.zeros((), dtype=torch.int64).expand(rows)
    message = (
        r"logits of 4194304 rows take 1048576\.0 GiB on cpu, more than there is: set chunk_rows to (\d+), which fits"
    )
    with pytest.raises(ValueError, match=message) as refused:
        fused_linear_loss(hidden, LinearHead(weight), labels, None, lm_weight=1.0, chunk_rows=10**9)
    fits = int(str(refused.value).split("chunk_rows to ")[1].split(",")[0])
    torch.empty(fits, vocabulary)


@pytest.mark.parametrize("wrong", [2.0, -0.5, float("nan")])
def test_a_weight_outside_its_range_is_refused_of_all_rows_and_of_one(wrong: float) -> None:
    labels, fused = random_case()[1:]
    by_row = torch.full((N,), 0.5)
    by_row[3] = wrong
    for weight in (wrong, by_row):
        with pytest.raises(ValueError, match=rf"lambda\) must lie in \[0, 1\], got {wrong}"):
            fused_linear_loss(make_hidden(), make_head(), labels, fused, lm_weight=weight)


@pytest.mark.parametrize("chunk_rows", [0, -1])
def test_a_chunk_without_rows_is_refused(chunk_rows: int) -> None:
    _, labels, fused = random_case()
    with pytest.raises(ValueError, match=f"chunk_rows must be at least 1, got {chunk_rows}"):
        fused_linear_loss(make_hidden(), make_head(), labels, fused, lm_weight=0.5, chunk_rows=chunk_rows)


@pytest.mark.parametrize("outside", [V, -2])
def test_targets_outside_the_vocabulary_are_refused(outside: int) -> None:
    """In padding, or no row of the head at all."""
    hidden, head = make_hidden(), make_head(vocabulary_size=V)
    _, labels, fused = random_case()
    strange = torch.where(labels == IGNORE, labels, outside)
    with pytest.raises(ValueError, match=f"a label is token {outside}, the target LLM's vocabulary has {V}"):
        fused_linear_loss(hidden, head, strange, fused, lm_weight=0.5)
    fused.topk.ids[0, 1, 2] = outside
    with pytest.raises(ValueError, match=f"a slot of the fused target is token {outside}, the target LLM's"):
        fused_linear_loss(hidden, head, labels, fused, lm_weight=0.5)


@pytest.mark.parametrize(
    "options",
    [{}, {"gate": "better"}, {"temperature": 2.0}, {"divergence": "reverse_kl"}, {"divergence": "jensen_shannon"}],
)
def test_a_weight_for_each_row(options: dict[str, Any]) -> None:
    """Value and gradients are those of the rows of each weight alone, by how many of all they are."""
    hidden, head = make_hidden(), make_head(bias=True)
    _, labels, fused = random_case(1)
    labels = labels.flatten()
    weights = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64).repeat(N)[:N]
    got = fused_linear_loss(hidden, head, labels, fused, lm_weight=weights, chunk_rows=4, **options)
    number = int((labels != IGNORE).sum())
    want = torch.zeros((), dtype=torch.float64)
    for weight in weights.unique().tolist():
        mine = labels.where(weights == weight, torch.full_like(labels, IGNORE))
        part = fused_linear_loss(hidden, head, mine, fused, lm_weight=weight, **options)
        want = want + part.total * int((mine != IGNORE).sum()) / number
    torch.testing.assert_close(got.total, want, rtol=RTOL, atol=ATOL)
    both = (torch.autograd.grad(total, leaves(hidden, head)) for total in (got.total, want))
    for mine, theirs in zip(*both, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=RTOL, atol=ATOL)


def test_one_weight_for_all_rows_is_the_number() -> None:
    hidden, head = make_hidden(), make_head()
    _, labels, fused = random_case(2)
    one, each = (
        fused_linear_loss(hidden, head, labels.flatten(), fused, lm_weight=weight, balance="match_clm")
        for weight in (0.3, torch.full((N,), 0.3, dtype=torch.float64))
    )
    torch.testing.assert_close(each.total, one.total, rtol=RTOL, atol=ATOL)
    assert torch.equal(torch.as_tensor(each.kl_scale), torch.as_tensor(one.kl_scale))
