"""A target that is its own source has nothing to learn from it, by every way that a source's words take to the loss."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import pytest
from experiments_for_tests import TINY_TRAINING, composed

from knowfuse.runs.experiment import Experiment
from knowfuse.runs.itself import learns_nothing
from knowfuse.types import AlignedSource, TopK


def experiment(cache: Path, *overrides: str) -> Experiment:
    cfg = composed("train", *TINY_TRAINING, f"cache={cache}", "debug=self", *overrides)
    return hydra.utils.instantiate(cfg, _convert_="all")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["fusion=avg_ce", "packing=one_document"],
        ["alignment=min_edit_distance", "++sources.llama2.dtype=bfloat16"],
        ["alignment=hybrid"],
        ["alignment=rank_matched", "loss.temperature=2.0"],
        ["fusion=static", "fusion.weights={llama2: 0.5, mpt: 0.2, openllama: 0.3}", "loss.temperature=20.0"],
    ],
)
def test_its_kl_is_nothing_and_its_loss_that_of_clm(tiny_cache: Path, overrides: list[str]) -> None:
    """Whatever the fusion, the packing and the alignment; the stored traces cost what their 8 bits do."""
    made = experiment(tiny_cache, *overrides)
    assert list(made.sources) == ["llama2"]
    said = learns_nothing(made, made.prepare())
    assert "The set-up is right" in said
    assert " = 0.3 x CLM + " in said


def shifted(align: Any) -> Any:
    """An alignment that puts each row one further: what a set-up that is wrong does."""

    def wrong(*about: Any) -> AlignedSource:
        said = align(*about)
        return replace(said, topk=TopK(*(part.repeat(2, 0)[1 : len(part) + 1] for part in vars(said.topk).values())))

    return wrong


def test_rows_that_are_moved_are_found(tiny_cache: Path) -> None:
    made = experiment(tiny_cache)
    align = made.alignment
    made.alignment = lambda pair: shifted(align(pair))
    with pytest.raises(ValueError, match=r"A target that is its own source has a KL of 0 within 1e-06 .*: something"):
        learns_nothing(made, made.prepare())


def test_a_target_that_is_none_of_the_sources_is_its_own_all_the_same(tiny_cache: Path) -> None:
    made = experiment(tiny_cache, "target=llama2_7b")
    assert made.sources == {"itself": made.target}


@pytest.mark.parametrize("option", ["loss.form=renormalised", "loss.balance=match_clm", "loss.completion=set"])
def test_an_option_by_which_it_would_learn_is_refused(tiny_cache: Path, option: str) -> None:
    with pytest.raises(
        hydra.errors.InstantiationException, match=rf"KL of 0, token by token, .* and {option} is something"
    ):
        experiment(tiny_cache, option)
