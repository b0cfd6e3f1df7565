"""What does not go with drawn traces is refused by name, before anything is read."""

from functools import partial
from typing import Any

import hydra.utils
import pytest
from experiments_for_tests import TINY_TRAINING, composed
from hydra.errors import InstantiationException

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.exact_match import exact_match
from knowfuse.alignment.hybrid import hybrid
from knowfuse.alignment.rank_matched import rank_matched
from knowfuse.losses import fused_linear_loss
from knowfuse.runs.unbiased import require_drawable, require_unbiased
from knowfuse.types import LLMSpec

SHARED = partial(byte_exact, rows="shared", look_ahead=False)


@pytest.mark.parametrize(
    ("alignment", "message"),
    [
        (
            partial(byte_exact, rows="all", look_ahead=False),
            r"alignment\.rows=all of byte_exact: it divides.*: set alignment\.rows=shared, or traces=topk",
        ),
        (
            byte_exact,
            r"rows=all and alignment\.look_ahead=true of byte_exact.*alignment\.rows=shared alignment\.look_ahead=false, or",
        ),
        (
            partial(exact_match, many_to_one="first"),
            r"alignment\.many_to_one=first of exact_match.*set alignment\.many_to_one=sum, or",
        ),
        (
            rank_matched,
            r"alignment 'rank_matched' ranks or divides probabilities.*alignment to one of \['byte_exact', ",
        ),
        (partial(hybrid), "alignment 'hybrid' ranks or divides"),
    ],
)
def test_alignments_that_are_not_linear(alignment: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_unbiased(alignment, fused_linear_loss, None)


@pytest.mark.parametrize(
    ("option", "value", "right"),
    [
        ("divergence", "reverse_kl", "forward_kl"),
        ("divergence", "jensen_shannon", "forward_kl"),
        ("temperature", 2.0, "1.0"),
        ("form", "renormalised", "tail"),
        ("gate", "better", "none"),
        ("balance", "match_clm", "fixed"),
    ],
)
def test_losses_that_are_not_linear(option: str, value: object, right: str) -> None:
    require_unbiased(SHARED, partial(fused_linear_loss, chunk_rows=8), None)
    with pytest.raises(
        ValueError, match=rf"loss\.{option}={value} is not linear .*: set loss\.{option}={right}, or traces"
    ):
        require_unbiased(SHARED, partial(fused_linear_loss, **{option: value}), None)


def test_a_target_compared_with_draws_of_itself() -> None:
    with pytest.raises(ValueError, match=r"debug=self compares a target with what it says itself.*set traces=topk"):
        require_unbiased(SHARED, fused_linear_loss, "self")


@pytest.mark.parametrize("top_k", [0, 256])
def test_slots_that_nothing_can_be_drawn_into(top_k: int) -> None:
    require_drawable("topk", top_k, {})
    with pytest.raises(ValueError, match=rf"top_k is {top_k}: set it to 1 to 255, or traces=topk"):
        require_drawable("sampled", top_k, {})


def test_a_served_source() -> None:
    far = {"far": LLMSpec(path="x", server="http://127.0.0.1:1/v1")}
    require_drawable("topk", 8, far)
    with pytest.raises(ValueError, match=r"the server of source 'far' tells the most probable tokens alone"):
        require_drawable("sampled", 8, far)


def test_an_experiment_asks() -> None:
    """And one of which nothing is refused is made."""
    settings = composed("train", *TINY_TRAINING, "traces=sampled")
    with pytest.raises(InstantiationException, match=r"set alignment\.rows=shared alignment\.look_ahead=false, or"):
        hydra.utils.instantiate(settings, _convert_="all")
    settings.alignment.rows, settings.alignment.look_ahead = "shared", False
    assert hydra.utils.instantiate(settings, _convert_="all").traces == "sampled"
