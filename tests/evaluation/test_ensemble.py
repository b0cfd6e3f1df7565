"""Probability ensembles: against the plain mean of softmaxes, the weights that suit a text best, and who has no mean."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments_for_tests import documents, local_llm

from knowfuse.evaluation import Ensemble, score_documents
from knowfuse.llms.local import LocalLLM


@pytest.fixture(scope="module")
def llms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LocalLLM]:
    folder = tmp_path_factory.mktemp("members")
    return {name: local_llm(folder / name, seed=seed) for seed, name in enumerate(("one", "two"))}


def nats_of_the_mean(llms: dict[str, LocalLLM], text: str, is_complete: bool, weights: list[float]) -> float:
    """In float64, over the whole vocabulary, a token after another."""
    tokens = llms["one"].surface().tokenize(text, is_complete)
    ids = torch.tensor(tokens.input_ids.astype(np.int64))[None]
    each = [torch.softmax(llm.load()(ids).logits[0].double(), -1) for llm in llms.values()]
    mean = sum(weight * probs for weight, probs in zip(weights, each, strict=True))
    last = len(tokens.input_ids) - (1 if is_complete else 0)  # an EOS is no text
    return -sum(math.log(mean[t, ids[0, t + 1]]) for t in range(last - 1))


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.9, 0.1]])
def test_an_ensemble_pays_what_the_mean_distribution_pays(
    llms: dict[str, LocalLLM], tmp_path: Path, weights: list[float]
) -> None:
    texts = documents(5)
    given = None if weights[0] == weights[1] else dict(zip(llms, weights, strict=True))
    scores = Ensemble(llms, tmp_path).score(texts, given)
    for document in texts:
        expected = nats_of_the_mean(llms, document.text, document.is_complete, weights)
        # float32 log-probabilities, some 40 of them: 1e-6 each
        assert scores.nats[document.id] == pytest.approx(expected, rel=1e-5)


def test_an_ensemble_of_one_pays_what_it_pays(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    texts, llm = documents(4), llms["one"]
    alone = score_documents(llm.load(), llm.surface(), texts, llm.context_length(), 8192)
    together = Ensemble({"one": llm}, tmp_path).score(texts)
    for name, nats in alone.nats.items():
        assert together.nats[name] == pytest.approx(nats, rel=1e-6)
    assert together.eos_nats == pytest.approx(alone.eos_nats, rel=1e-6)


def test_weights_are_those_that_pay_least(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    """Of a grid over both; they sum to 1."""
    texts = documents(6)
    members = Ensemble(llms, tmp_path)
    found = members.weights(texts)
    assert sum(found.values()) == pytest.approx(1.0)

    def paid(weight: float) -> float:
        scores = members.score(texts, {"one": weight, "two": 1 - weight})
        return sum(scores.nats.values()) + sum(scores.eos_nats.values())

    assert paid(found["one"]) <= min(map(paid, np.linspace(0.02, 0.98, 9))) + 1e-6


def test_llms_of_different_tokenizers_have_no_mean(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    mixed = {"one": llms["one"], "other": local_llm(tmp_path / "other", "mpt")}
    with pytest.raises(
        ValueError, match="'one' and 'other' have different tokenizers, so their next-token distributions"
    ):
        Ensemble(mixed, tmp_path)
