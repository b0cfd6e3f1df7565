"""Each source's cross-entropy against loops over rows, in Python floats."""

import math

import pytest
import torch
from aligned_for_tests import Block, random_block

from knowfuse.fusion.cross_entropy import Granularity, Unit, cross_entropy
from knowfuse.fusion.min_ce import min_ce


def same_group(block: Block, b: int, t: int, other: int, granularity: str) -> bool:
    if granularity == "sequence":
        return True
    return other == t if granularity == "token" else bool(block.document_ids[b, t] == block.document_ids[b, other])


def oracle(block: Block, b: int, s: int, t: int, granularity: str, unit: str) -> float:
    """Nats over bytes or tokens of the aligned rows of the group that have bytes; without those the nats; infinite without a row."""
    sources = block.sources
    rows = [o for o in range(9) if same_group(block, b, t, o, granularity) and sources.is_aligned[b, s, o]]
    if not rows:
        return math.inf
    text = [o for o in rows if block.label_bytes[b, o] > 0]
    nats = sum(float(sources.nll[b, s, o]) for o in text or rows)
    per = block.label_bytes[b] if unit == "byte" else sources.source_tokens[b, s]
    return nats / (sum(float(per[o]) for o in text) or 1.0)


@pytest.mark.parametrize("num_sources", [1, 2, 4])
@pytest.mark.parametrize("unit", ["byte", "token"])
@pytest.mark.parametrize("granularity", ["sequence", "document", "token"])
def test_against_loops(granularity: Granularity, unit: Unit, num_sources: int) -> None:
    block = random_block(num_sources, aligned_share=0.5)
    got = cross_entropy(block.sources, block.document_ids, block.label_bytes, granularity, unit)
    want = [
        [[oracle(block, b, s, t, granularity, unit) for t in range(9)] for s in range(num_sources)] for b in range(2)
    ]
    torch.testing.assert_close(got, torch.tensor(want), rtol=1e-6, atol=0.0)  # float32 sums of at most nine numbers


def test_int32_document_ids_are_as_good() -> None:
    block = random_block(2)
    one, other = (
        cross_entropy(block.sources, ids, block.label_bytes, "document", "byte")
        for ids in (block.document_ids, block.document_ids.int())
    )
    assert torch.equal(one, other)


def test_an_eos_alone_compares_by_its_nats() -> None:
    """Row 5 has no bytes: its cross-entropy is its nll, not that over next to nothing."""
    block = random_block(3, aligned_share=1.0)
    got = cross_entropy(block.sources, block.document_ids, block.label_bytes, "token", "byte")
    assert torch.equal(got[:, :, 5], block.sources.nll[:, :, 5])


@pytest.mark.parametrize("unit", ["byte", "token"])
@pytest.mark.parametrize("granularity", ["sequence", "document"])
def test_the_text_alone_decides(granularity: Granularity, unit: Unit) -> None:
    """What an EOS costs moves no cross-entropy of a source that has text there."""
    block = random_block(3, aligned_share=1.0)
    before = cross_entropy(block.sources, block.document_ids, block.label_bytes, granularity, unit)
    block.sources.nll[:, :, 5] += 20.0
    block.sources.source_tokens[:, :, 5] += 1.0
    assert torch.equal(cross_entropy(block.sources, block.document_ids, block.label_bytes, granularity, unit), before)


def test_a_source_that_has_an_eos_alone_is_still_chosen_there() -> None:
    """Aligned on the EOS and on no text of the document: a finite cross-entropy, so that the row keeps its source."""
    block = random_block(2, aligned_share=1.0)
    block.sources.is_aligned[0, :, 3:6] = torch.tensor([[False, False, True], [False, False, False]])
    fused = min_ce(block.sources, block.document_ids, block.label_bytes)
    assert fused.weights[0, :, 5].tolist() == [1.0, 0.0]
    assert bool(fused.has_target[0, 5])
