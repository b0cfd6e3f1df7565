"""One event of all tokens that complete what the text owes, against the dense float64 oracle that looks at every token's bytes."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_for_tests import ATOL, RTOL, N, V, oracle, random_case, target
from tokenizers_for_tests import surface
from torch import Tensor

from knowfuse.losses import LinearHead, completions, fused_linear_loss
from knowfuse.types import FusedTarget

# Id 3 stands for no text, ids 1 and 8 for the same bytes, id 5 ends in the last byte there is.
SPELLED = [b" t", b" the", b" they", None, b" ", b"a\xff", b"a", b"\xff\xff", b" the", b"b", b"a\xffb"]
CASES: list[dict[str, Any]] = [
    {},
    {"gate": "better"},
    {"form": "renormalised"},
    {"divergence": "reverse_kl"},
    {"divergence": "jensen_shannon", "beta": 0.3},
    {"temperature": 2.0},
    {"divergence": "jensen_shannon", "temperature": 0.5},
]


def loss(logits: Tensor, labels: Tensor, fused: FusedTarget, padding: int = 0, **options: Any) -> Any:
    width = logits.shape[-1]
    head = LinearHead(torch.eye(width, dtype=logits.dtype), vocabulary_size=width - padding)
    options = {"lm_weight": 0.3, "chunk_rows": 5, "sets": completions(SPELLED), "completion": "set", **options}
    return fused_linear_loss(logits, head, labels, fused, **options)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=3), st.sampled_from(SPELLED)), min_size=1, max_size=12))
@settings(max_examples=60)
def test_the_tokens_that_begin_with_the_bytes_of_each(spelled: list[bytes | None]) -> None:
    """Against a look at every pair of tokens."""
    sets = completions(spelled)
    for i, owed in enumerate(spelled):
        got = sets.order[int(sets.first[i]) : int(sets.last[i])].tolist()
        assert sorted(got) == [j for j, piece in enumerate(spelled) if owed and (piece or b"").startswith(owed)]
        assert not owed or int(sets.order[sets.place[i]]) == i


def test_of_a_real_vocabulary() -> None:
    spelled = surface("llama").token_bytes
    sets = completions(spelled)
    some = spelled.index(b" th")
    found = {spelled[i] for i in sets.order[sets.first[some] : sets.last[some]].tolist()}
    assert found == {piece for piece in spelled if piece and piece.startswith(b" th")}
    assert {b" th", b" the"} <= found


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_value_and_gradient_against_the_dense_oracle(options: dict[str, Any], padding: int) -> None:
    happened = 0
    for seed in range(4):
        logits, labels, fused = random_case(seed)
        if padding:
            logits = torch.cat([logits.detach(), torch.randn(N, 3, dtype=torch.float64)], 1).requires_grad_()
        got = loss(logits, labels, fused, padding, **options)
        more = {name: value for name, value in options.items() if name not in ("form", "gate")}
        how = (0.3, options.get("form", "tail"), options.get("gate", "none"), V)
        want = oracle(logits, labels, fused, *how, SPELLED, **more)
        happened += abs(float(want.detach() - oracle(logits, labels, fused, *how, **more).detach())) > 1e-3
        torch.testing.assert_close(got.total, want, rtol=RTOL, atol=ATOL)
        mine, its = (torch.autograd.grad(x, logits)[0] for x in (got.total, want))
        torch.testing.assert_close(mine, its, rtol=RTOL, atol=ATOL)
    assert happened >= 3, "tokens alone would cost something else"


def test_an_event_never_costs_more_than_its_tokens_apart() -> None:
    """Buckets that are merged lose what told them apart: no divergence grows."""
    for seed in range(20):
        logits, labels, fused = random_case(seed)
        for divergence in ("forward_kl", "jensen_shannon"):
            together, apart = (
                loss(logits.detach(), labels, fused, divergence=divergence, completion=x).kl for x in ("set", "token")
            )
            assert float(together) <= float(apart) + 1e-7


def test_which_token_says_it_is_all_the_same() -> None:
    """What the target LLM gives to ` they` in place of ` the` costs nothing, and is not pulled back."""
    q = torch.tensor([[0.1, 0.2, 0.3, 0.1, 0.1, 0.05, 0.05, 0.02, 0.02, 0.03, 0.03]], dtype=torch.float64)
    logits = q.log().requires_grad_()
    fused = target(torch.tensor([[1, 0]]), torch.tensor([[0.52, 0.1]]).log(), torch.tensor([0.38]))
    got = loss(logits, torch.tensor([1]), fused, lm_weight=0.0).total
    torch.testing.assert_close(got, torch.zeros_like(got), rtol=0.0, atol=1e-7)
    grad = torch.autograd.grad(got, logits)[0]
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0.0, atol=1e-7)
    assert float(loss(logits.detach(), torch.tensor([1]), fused, lm_weight=0.0, completion="token").kl) > 0.1


def test_an_event_that_all_but_fills_the_row_leaves_a_finite_loss() -> None:
    """In float32: the tail is 300 nats below the event, and then there is no tail at all."""
    logits = torch.zeros(2, V)
    logits[0, [0, 3, 5, 6, 7, 9, 10]] = -300.0
    fused = target(torch.tensor([[1, 0]] * 2), torch.tensor([[0.6, 0.3]] * 2).log(), torch.tensor([0.1] * 2))
    for options in CASES:
        inputs = logits.clone().requires_grad_()
        got = loss(inputs, torch.tensor([4, 4]), fused, **options).total
        exact = logits.double().requires_grad_()
        how = (0.3, options.get("form", "tail"), options.get("gate", "none"), V, SPELLED)
        more = {name: value for name, value in options.items() if name not in ("form", "gate")}
        torch.testing.assert_close(
            got.double(), oracle(exact, torch.tensor([4, 4]), fused, *how, **more), rtol=1e-5, atol=1e-5
        )
        assert torch.isfinite(torch.autograd.grad(got, inputs)[0]).all()
    few = target(torch.tensor([[1, 0]]), torch.tensor([[0.6, 0.3]]).log(), torch.tensor([0.1]))
    head = LinearHead(torch.eye(3, dtype=torch.float64))
    sets = completions([b"a", b"ab", b"ac"])
    whole = torch.zeros(1, 3, dtype=torch.float64).requires_grad_()
    got = fused_linear_loss(whole, head, torch.tensor([0]), few, lm_weight=0.0, completion="set", sets=sets).total
    torch.testing.assert_close(got, oracle(whole, torch.tensor([0]), few, 0.0, "tail", "none", 3, [b"a", b"ab", b"ac"]))
    assert torch.isfinite(torch.autograd.grad(got, whole)[0]).all()


def test_a_chunk_of_any_size_is_the_same() -> None:
    logits, labels, fused = random_case()
    one, other = (loss(logits, labels, fused, chunk_rows=n).total for n in (3, N))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0.0)  # float64, sums in another order


def test_sets_that_are_missing_and_ranks_are_refused() -> None:
    logits, labels, fused = random_case()
    with pytest.raises(ValueError, match=rf"completion=set needs the completions of all {V} tokens, got none"):
        loss(logits, labels, fused, sets=None)
    with pytest.raises(ValueError, match=rf"completion=set needs the completions of all {V} tokens, got those of 3"):
        loss(logits, labels, fused, sets=completions([b"a", b"b", None]))
    with pytest.raises(
        ValueError, match=r"completion=set needs the bytes of tokens, and the fused target has ranks: set it"
    ):
        loss(logits, labels, fused, resolve=lambda part, _: part)
