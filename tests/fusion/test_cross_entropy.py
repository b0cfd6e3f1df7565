"""Each source's cross-entropy against loops over rows, in Python floats."""

import math

import pytest
import torch
from aligned_for_tests import Block, random_block

from knowfuse.fusion.cross_entropy import Granularity, Unit, cross_entropy


def same_group(block: Block, b: int, t: int, other: int, granularity: str) -> bool:
    if granularity == "sequence":
        return True
    return other == t if granularity == "token" else bool(block.document_ids[b, t] == block.document_ids[b, other])


def oracle(block: Block, b: int, s: int, t: int, granularity: str, unit: str) -> float:
    """Nats over bytes or tokens of the aligned rows of the group; infinite without such a row, nats without bytes."""
    sources = block.sources
    rows = [o for o in range(9) if same_group(block, b, t, o, granularity) and sources.is_aligned[b, s, o]]
    if not rows:
        return math.inf
    nats = sum(float(sources.nll[b, s, o]) for o in rows)
    per = block.label_bytes[b] if unit == "byte" else sources.source_tokens[b, s]
    return nats / (sum(float(per[o]) for o in rows) or 1.0)


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
