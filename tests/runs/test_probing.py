"""A probe of a whole experiment in miniature: what it fits, what it reads, and what it refuses."""

from pathlib import Path

import hydra
import numpy as np
import pytest
from experiments_for_tests import TINY_TRAINING, composed, documents

from knowfuse.runs.experiment import Experiment
from knowfuse.runs.probing import probe, ratio_error, shares_of
from knowfuse.text.corpus import Corpus

PROBED = [*TINY_TRAINING, "trainer.max_steps=130", "trainer.val_check_interval=130"]


def experiment(cache: Path, *overrides: str) -> Experiment:
    return hydra.utils.instantiate(composed("train", *PROBED, f"cache={cache}", *overrides), _convert_="all")


def corpus(number: int) -> Corpus:
    return Corpus.of("mine", [*documents(number), *documents(4, "validation")])


def test_parts_double_from_the_smallest_that_is_a_fit_to_a_half() -> None:
    assert shares_of(corpus(70), 1000) == [1 / 8, 1 / 4, 1 / 2]
    assert shares_of(corpus(70), 128) == [1 / 8, 1 / 4, 1 / 2]
    assert shares_of(corpus(150), 10_000) == [1 / 16, 1 / 8, 1 / 4, 1 / 2]


@pytest.mark.parametrize(("number", "steps"), [(63, 1000), (70, 127), (70, 1)])
def test_too_little_text_or_steps_are_refused(number: int, steps: int) -> None:
    message = rf"too little to probe: corpus 'mine' has {number} documents .* is {steps}; .* at least 64 documents and 128 steps"
    with pytest.raises(ValueError, match=message):
        shares_of(corpus(number), steps)


def test_the_error_of_a_ratio_is_that_of_many_draws() -> None:
    """Against the spread of ratios over 4,000 draws of 200 documents anew."""
    rng = np.random.default_rng(0)
    sizes = rng.uniform(50, 400, 200)
    amounts = sizes * rng.normal(0.3, 0.1, 200)
    drawn = rng.integers(0, 200, (4000, 200))
    ratios = amounts[drawn].sum(1) / sizes[drawn].sum(1)
    assert ratio_error(amounts, sizes) == pytest.approx(ratios.std(), rel=0.05)


def test_one_document_is_no_measure_of_others(tiny_cache: Path) -> None:
    with pytest.raises(
        ValueError, match=r"1 of the 1 documents of the probe's validation .* at least 2 .*: set documents higher"
    ):
        probe(experiment(tiny_cache), 1, 5.0)


def test_a_probe_without_time_is_refused(tiny_cache: Path) -> None:
    """After the first fit, whose time it knows by then."""
    message = (
        r"1e-06 minutes were enough for 1 of the 3 fits that a curve needs \(0\.125 of the text in \d+ s\): set minutes"
    )
    with pytest.raises(ValueError, match=message):
        probe(experiment(tiny_cache), 5, 1e-6)
