"""Merging in parameter space by the real mergekit: what comes out, and what has no mean."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments_for_tests import local_llm

from knowfuse.llms import merging
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.llms.merging import Merging, merge, require_mergeable
from knowfuse.types import LLMSpec


def copy_of(base: LocalLLM, folder: Path, seed: int) -> LocalLLM:
    """As if tuned a little from it."""
    model = base.load()
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    model.save_pretrained(folder)
    base.tokenizer().save_pretrained(folder)
    return localize(folder.name, LLMSpec(path=str(folder)))


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalLLM, dict[str, LocalLLM]]:
    folder = tmp_path_factory.mktemp("tuned")
    base = local_llm(folder / "base")
    return base, {name: copy_of(base, folder / name, n) for n, name in enumerate(("one", "two"))}


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return localize("merged", LLMSpec(path=str(folder))).load().state_dict()


def test_the_average_is_the_mean_of_every_weight(cast: tuple[LocalLLM, dict[str, LocalLLM]], tmp_path: Path) -> None:
    """Made once; it cuts texts as they do."""
    base, llms = cast
    assert merge(llms, base, tmp_path / "mean", Merging("linear"))
    one, two = (llm.load().state_dict() for llm in llms.values())
    for name, found in weights_in(tmp_path / "mean").items():
        torch.testing.assert_close(found, (one[name] + two[name]) / 2, rtol=0, atol=1e-6)  # a sum of two in float32
    assert localize("it", LLMSpec(path=str(tmp_path / "mean"))).surface().fingerprint == base.surface().fingerprint
    assert not merge(llms, base, tmp_path / "mean", Merging("linear"))


def test_weights_of_each_are_told_in_their_order(cast: tuple[LocalLLM, dict[str, LocalLLM]], tmp_path: Path) -> None:
    base, llms = cast
    merge(llms, base, tmp_path / "mean", Merging("linear", each={"weight": [3, 1]}))
    one, two = (llm.load().state_dict() for llm in llms.values())
    for name, found in weights_in(tmp_path / "mean").items():
        torch.testing.assert_close(found, (3 * one[name] + two[name]) / 4, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "how",
    [
        Merging("task_arithmetic"),
        Merging("ties"),
        Merging("sce", shared={"select_topk": 1.0}),
        Merging("dare_linear"),
        Merging("dare_ties"),
    ],
)
def test_merged_differences_to_the_base(
    cast: tuple[LocalLLM, dict[str, LocalLLM]], tmp_path: Path, how: Merging
) -> None:
    """Of one LLM alone, nothing trimmed or dropped, it is that LLM; of two it is neither, and near the base."""
    base, llms = cast
    only = {"one": llms["one"]}
    merge(only, base, tmp_path / "alone", how)
    expected = llms["one"].load().state_dict()
    for name, found in weights_in(tmp_path / "alone").items():
        torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-5)
    merge(llms, base, tmp_path / "both", how)
    found, start = weights_in(tmp_path / "both"), base.load().state_dict()
    assert not any(torch.equal(found[name], expected[name]) for name in found)
    assert all((found[name] - start[name]).abs().max() < 0.3 for name in found)


def test_a_seed_draws_what_dare_drops(cast: tuple[LocalLLM, dict[str, LocalLLM]], tmp_path: Path) -> None:
    base, llms = cast
    for folder, seed in (("first", 0), ("again", 0), ("other", 1)):
        merge(llms, base, tmp_path / folder, Merging("dare_linear", each={"density": 0.5}, seed=seed))
    first, again, other = (weights_in(tmp_path / folder) for folder in ("first", "again", "other"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "slerp"}, "method is 'slerp': choose one of ['linear', 'task_arithmetic', 'ties',"),
        (
            {"method": "sce", "shared": {"select_top": 0.5}},
            "there is no setting shared.select_top: did you mean shared.select_topk?",
        ),
        (
            {"method": "sce", "each": {"weight": 1}},
            "each sets 'weight', and method sce takes nothing there: leave it out",
        ),
        ({"method": "ties", "each": {"densty": 1}}, "there is no setting each.densty: did you mean each.density?"),
    ],
)
def test_what_a_method_does_not_know_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Merging(**settings)


def test_what_mergekit_refuses_is_told(cast: tuple[LocalLLM, dict[str, LocalLLM]], tmp_path: Path) -> None:
    """A list that is too short by us, before anything is read; a share that is none by mergekit. Nothing is left."""
    base, llms = cast
    with pytest.raises(ValueError, match=r"each.weight is \[1\], and 2 LLMs are merged: give one number for all, or 2"):
        merge(llms, base, tmp_path / "merged", Merging("linear", each={"weight": [1]}))
    with pytest.raises(
        ValueError, match=r"mergekit does not merge by sce with shared=\{'select_topk': 'most'\} and each=None \("
    ):
        merge(llms, base, tmp_path / "merged", Merging("sce", shared={"select_topk": "most"}))
    assert not list(tmp_path.glob("merged*/*"))


def test_copies_that_end_a_text_otherwise_are_merged(
    cast: tuple[LocalLLM, dict[str, LocalLLM]], tmp_path: Path
) -> None:
    """As an LLM and what it was tuned to answer as: neither the ids in its configuration nor its EOS are of the weights."""
    base, _ = cast
    model, tokenizer = base.load(), base.tokenizer()
    model.config.eos_token_id = model.generation_config.eos_token_id = 0
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    model.save_pretrained(tmp_path / "answers")
    tokenizer.save_pretrained(tmp_path / "answers")
    other = localize("answers", LLMSpec(path=str(tmp_path / "answers")))
    assert other.surface().eos_id != base.surface().eos_id
    require_mergeable({"answers": other}, base)


def test_what_cannot_be_merged_is_refused(cast: tuple[LocalLLM, dict[str, LocalLLM]], tmp_path: Path) -> None:
    """Another shape, another tokenizer, other random numbers; nothing is written."""
    base, llms = cast

    def refused(llm: LocalLLM, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            merge({**llms, "odd": llm}, base, tmp_path / "merged", Merging("linear"))

    refused(
        local_llm(tmp_path / "wide", width=64),
        "'odd' cannot be merged with 'base': head_dim is 16 in the one and 8 in",
    )
    refused(
        local_llm(tmp_path / "chance", seed=7),
        r"'odd' cannot be merged with 'base': the cosine .* was not tuned from it",
    )
    tokenizer = base.tokenizer()
    tokenizer.add_tokens(["knowledge"])
    base.load().save_pretrained(tmp_path / "cuts")
    tokenizer.save_pretrained(tmp_path / "cuts")
    refused(localize("cuts", LLMSpec(path=str(tmp_path / "cuts"))), "they cut texts into other tokens")
    assert not (tmp_path / "merged").exists()


def test_without_mergekit_the_line_that_installs_it_is_told(
    cast: tuple[LocalLLM, dict[str, LocalLLM]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"mergekit"}
    monkeypatch.setattr(merging, "find_spec", lambda name: None if name in missing else importlib.util.find_spec(name))
    with pytest.raises(
        ValueError, match=r"merging needs mergekit, which is not installed: pip install -e '\.\[merge\]'"
    ):
        merge(cast[1], cast[0], tmp_path / "merged", Merging("linear"))
