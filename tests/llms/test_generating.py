"""Tokens that an LLM goes on with: drawn as often as they are probable, each row by its own chance."""

import numpy as np
import pytest
import torch
from models_for_tests import tiny_llm

from knowfuse.llms.generating import Drawn, Only, generated

VOCABULARY = 40


@pytest.fixture(scope="module")
def llm():
    return tiny_llm("llama", VOCABULARY)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_as_often_as_they_are_probable(llm, temperature: float) -> None:
    """By numbers at even distances: no count is one off its mean. Those that may not be said are left out of the distribution."""
    rows = 400
    prompt, may = torch.tensor([[3, 7, 11]]), torch.arange(30) % 5 != 0
    uniforms = (torch.arange(rows, dtype=torch.float64)[:, None] + 0.5) / rows
    said = generated(llm, prompt.expand(rows, 3), 1, None, [Only(may), Drawn(uniforms, temperature, 3)])
    logits = llm(prompt).logits[0, -1].detach().double()[:30].masked_fill(~may, -torch.inf)
    want = (logits / temperature).softmax(-1) * rows
    got = torch.bincount(torch.tensor(said)[:, 0], minlength=30)
    assert (got - want).abs().max() < 1.0
    assert (got > 0).sum() > 5


def test_a_row_draws_the_same_whatever_is_beside_it(llm) -> None:
    prompts = torch.from_numpy(np.random.default_rng(0).integers(1, VOCABULARY, (6, 4)))
    uniforms = torch.rand(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = generated(llm, prompts, 8, 0, [Drawn(uniforms, 1.0, 4)])
    alone = [generated(llm, prompts[n : n + 1], 8, 0, [Drawn(uniforms[n : n + 1], 1.0, 4)])[0] for n in range(6)]
    assert whole == alone
    assert len({*map(tuple, whole)}) == 6
    assert all(len(said) == 8 or said[-1] == 0 for said in whole)


def test_the_habits_of_a_folder_are_not_taken(llm) -> None:
    """Of its generation_config.json; and the model keeps them."""
    prompt = torch.tensor([[3, 7, 11]])
    plain = generated(llm, prompt, 6, None)
    llm.generation_config.repetition_penalty, llm.generation_config.max_length = 50.0, 4
    assert generated(llm, prompt, 6, None) == plain
    assert llm.generation_config.repetition_penalty == 50.0


def test_an_eos_ends_a_row_and_logits_must_be_finite(llm) -> None:
    prompts = torch.tensor([[3, 7], [4, 8]])
    (first, *_), other = generated(llm, prompts, 4, None)
    assert generated(llm, prompts, 4, first)[0] == [first]
    assert generated(llm, prompts, 4, first)[1] == (other[: other.index(first) + 1] if first in other else other)
    with pytest.raises(ValueError, match="the target returned NaN or infinite logits: check its dtype and weights"):
        Drawn(torch.zeros(1, 1, dtype=torch.float64), 1.0, 2)(prompts[:1], torch.full((1, 5), torch.nan))
