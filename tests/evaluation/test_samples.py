"""Which documents are shown, what each token costs, and how an LLM goes on, against transformers' own."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments_for_tests import documents, local_llm

from knowfuse.evaluation import (
    Beginnings,
    ByDocument,
    Continuation,
    Samples,
    TokenCosts,
    baseline_of,
    begun,
    extremes,
    read_samples,
    score_documents,
    tell,
    write_samples,
)
from knowfuse.surface.tokens import tokenize_documents


def scores(**nats: list[float]) -> ByDocument:
    names = {"fused": "target fused", "clm": "target clm", "before": "target before"}
    count = len(nats["fused"])
    sizes = np.array([100, 100, 100, 10, 200][:count], dtype=np.int64)
    paid = {names[key]: np.array(values, dtype=np.float64) for key, values in nats.items()}
    return ByDocument([f"d{n}" for n in range(count)], ["code"] * count, sizes, paid)


def test_gains_and_losses_are_per_byte_and_against_plain_clm() -> None:
    """The fourth is the largest change of all, of ten bytes; the fifth cannot be read by one of them."""
    table = scores(fused=[90, 100, 130, 1, 1], clm=[100, 100, 100, 90, math.nan], before=[1, 1, 1, 1, 1])
    assert baseline_of(table) == "target clm"
    assert extremes(table, 2) == (["d0"], ["d2"])
    assert extremes(table, 0) == ([], [])


def test_without_a_clm_fit_the_target_before_is_what_they_are_against() -> None:
    table = scores(fused=[90, 110, 100], before=[100, 100, 100])
    assert baseline_of(table) == "target before"
    assert extremes(table, 1) == (["d0"], ["d1"])


def test_of_short_documents_alone_the_longest_is_shown() -> None:
    table = scores(fused=[1.0], before=[2.0])
    table.num_bytes[:] = 8
    assert extremes(table, 4) == (["d0"], [])


def test_domains_take_turns() -> None:
    assert begun(["b", "a", "b", "c", "a"], 4) == [1, 0, 3, 4]
    assert begun(["a"], 4) == [0]
    assert begun([], 4) == []


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    costs = TokenCosts("d0", "code", ["a", "\\xe2"], [1, 1], {"target fused": [0.5, 1.5]}, 2)
    kept = Samples("target clm", [costs], [], [Continuation("d1", "docs", "a", "b", {"target fused": "c"})])
    write_samples(tmp_path, kept)
    assert read_samples(tmp_path) == kept
    (tmp_path / "samples.json").write_text("{}")
    with pytest.raises(ValueError, match=r"samples\.json' is cut off or damaged .*--samples makes it anew"):
        read_samples(tmp_path)


@pytest.mark.parametrize("architecture", ["llama", "mpt"])
def test_an_llm_tells_what_it_is_scored_by_and_goes_on_as_transformers_has_it(
    tmp_path: Path, architecture: str
) -> None:
    llm = local_llm(tmp_path / architecture, architecture)
    model, surface, texts = llm.load(), llm.surface(), documents(6)
    tokens = tokenize_documents(surface, texts, 160)
    ids = torch.from_numpy(np.stack([tokens[d.id].input_ids[:6] for d in texts[:3]]))
    asked = Beginnings([d.id for d in texts[:3]], ids, surface.usable, None, new_tokens=7)
    told = tell(model, tokens, asked, 64)
    want = score_documents(model, surface, texts, 160, 64)
    for d in texts:
        assert len(told.nats[d.id]) == len(tokens[d.id].input_ids) - 1
        text = told.nats[d.id][: len(told.nats[d.id]) - d.is_complete]
        assert math.fsum(text) == pytest.approx(want.nats[d.id], rel=1e-6)
    options = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "eos_token_id": None}
    greedy = model.generate(ids, max_new_tokens=7, do_sample=False, **options)  # pyright: ignore[reportCallIssue]
    assert list(told.went_on.values()) == greedy[:, 6:].tolist()
    first = told.went_on[texts[0].id]
    stops = tell(model, tokens, Beginnings(asked.documents, ids, surface.usable, first[2], 7), 64).went_on[texts[0].id]
    assert stops == first[: first.index(first[2])], "up to the EOS, wherever it is first"
