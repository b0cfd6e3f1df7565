"""AvgCE against weights computed source by source in Python floats."""

import math

import pytest
import torch
from aligned_for_tests import dense, dense_sources, random_block

from knowfuse.fusion.avg_ce import Weighting, avg_ce
from knowfuse.fusion.cross_entropy import Granularity, Unit, cross_entropy
from knowfuse.fusion.min_ce import min_ce


@pytest.mark.parametrize("num_sources", [1, 2, 4])
@pytest.mark.parametrize(("weighting", "temperature"), [("softmax", 0.1), ("softmax", 1.0), ("reference", 0.1)])
@pytest.mark.parametrize(("granularity", "unit"), [("sequence", "token"), ("document", "byte"), ("token", "byte")])
def test_weights_against_loops(
    granularity: Granularity, unit: Unit, weighting: Weighting, temperature: float, num_sources: int
) -> None:
    """softmax(-CE / temperature), or softmax(exp(-CE)), over the sources aligned at the row; and their mixture."""
    block = random_block(num_sources, aligned_share=0.6)
    ce = cross_entropy(block.sources, block.document_ids, block.label_bytes, granularity, unit).tolist()
    fused = avg_ce(
        block.sources,
        block.document_ids,
        block.label_bytes,
        granularity=granularity,
        unit=unit,
        weighting=weighting,
        temperature=temperature,
    )
    want = torch.zeros(2, num_sources, 9, dtype=torch.float64)
    for b in range(2):
        for t in range(9):
            scores = {s: ce[b][s][t] for s in range(num_sources) if block.sources.is_aligned[b, s, t]}
            for s, x in scores.items():
                scores[s] = math.exp(-x) if weighting == "reference" else -x / temperature
            for s, x in scores.items():
                want[b, s, t] = math.exp(x) / sum(math.exp(y) for y in scores.values())
    # A score of up to 3 / 0.1 nats carries float32 rounding of 30 * 6e-8 = 2e-6 into the weight.
    torch.testing.assert_close(fused.weights.double(), want, rtol=1e-5, atol=1e-7)
    mixed = (want[..., None] * dense_sources(block.sources)).sum(1)
    torch.testing.assert_close(dense(fused.topk, fused.tail), mixed, rtol=2e-5, atol=1e-7)  # type: ignore[arg-type]


def test_rows_without_a_source_have_no_weights_and_no_nan() -> None:
    block = random_block(3, aligned_share=0.3)
    fused = avg_ce(block.sources, block.document_ids, block.label_bytes)
    nowhere = ~block.sources.is_aligned.any(1)
    assert nowhere.sum() > 2
    assert torch.equal(fused.has_target, ~nowhere)
    assert torch.equal(fused.weights.sum(1)[nowhere], torch.zeros(int(nowhere.sum())))
    assert torch.equal(fused.weights[~block.sources.is_aligned], torch.zeros(int((~block.sources.is_aligned).sum())))
    assert not fused.topk.log_probs.isnan().any()


def test_a_cold_temperature_is_min_ce() -> None:
    block = random_block(4, aligned_share=1.0)
    cold = avg_ce(block.sources, block.document_ids, block.label_bytes, temperature=1e-6)
    sharp = min_ce(block.sources, block.document_ids, block.label_bytes)
    torch.testing.assert_close(cold.weights, sharp.weights, rtol=0.0, atol=1e-6)


def test_the_reference_weighting_is_nearly_uniform() -> None:
    """exp(-CE) lies in [0, 1], so two weights differ by a factor of at most e."""
    block = random_block(2, aligned_share=1.0)
    weights = avg_ce(block.sources, block.document_ids, block.label_bytes, weighting="reference").weights[..., :8]
    assert (weights.amax(1) / weights.amin(1) <= math.e * (1 + 1e-6)).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    block = random_block(2)
    with pytest.raises(ValueError, match=f"temperature is in nats per byte and must be positive, got {temperature}"):
        avg_ce(block.sources, block.document_ids, block.label_bytes, temperature=temperature)
