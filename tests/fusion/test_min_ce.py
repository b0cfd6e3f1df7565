"""MinCE against a loop that looks for the lowest cross-entropy among the sources aligned at each row."""

import pytest
import torch
from aligned_for_tests import random_block

from knowfuse.fusion.cross_entropy import Granularity, Unit, cross_entropy
from knowfuse.fusion.min_ce import min_ce
from knowfuse.types import EMPTY


@pytest.mark.parametrize("num_sources", [1, 2, 4])
@pytest.mark.parametrize("unit", ["byte", "token"])
@pytest.mark.parametrize("granularity", ["sequence", "document", "token"])
def test_each_row_takes_the_best_source_aligned_there(granularity: Granularity, unit: Unit, num_sources: int) -> None:
    block = random_block(num_sources, aligned_share=0.6)
    ce = cross_entropy(block.sources, block.document_ids, block.label_bytes, granularity, unit)
    fused = min_ce(block.sources, block.document_ids, block.label_bytes, granularity=granularity, unit=unit)
    for b in range(2):
        for t in range(9):
            present = [s for s in range(num_sources) if block.sources.is_aligned[b, s, t]]
            want = torch.zeros(num_sources)
            if present:
                best = min(present, key=lambda s: float(ce[b, s, t]))
                want[best] = 1.0
                assert torch.equal(fused.topk.ids[b, t], block.sources.topk.ids[b, best, t])
                assert torch.equal(fused.topk.log_probs[b, t], block.sources.topk.log_probs[b, best, t])
                assert fused.tail[b, t] == block.sources.tail[b, best, t]
            else:
                assert (fused.topk.log_probs[b, t] == EMPTY).all()
                assert fused.tail[b, t] == 0
            assert torch.equal(fused.weights[b, :, t], want)
            assert bool(fused.has_target[b, t]) == bool(present)


def test_the_best_source_is_replaced_only_where_it_is_not_aligned() -> None:
    """Source 0 is the best of the whole sequence by far, and missing at row 2."""
    block = random_block(3, aligned_share=1.0)
    block.sources.nll[:, 0] = 1e-3
    block.sources.is_aligned[:, 0, 2] = False
    weights = min_ce(block.sources, block.document_ids, block.label_bytes, granularity="sequence").weights
    labelled = [t for t in range(8) if t != 2]  # row 8 is padding
    assert (weights[:, 0, labelled] == 1).all()
    assert (weights[:, 0, 2] == 0).all()
    assert (weights[:, :, 2].sum(1) == 1).all()


def test_ties_go_to_the_first_source() -> None:
    block = random_block(3, aligned_share=1.0)
    block.sources.nll[:] = block.sources.nll[:, :1].clone()
    assert (min_ce(block.sources, block.document_ids, block.label_bytes).weights[:, 0, :8] == 1).all()
