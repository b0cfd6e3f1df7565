"""Sums of shares over batches, against a count row by row in Python's floats."""

from dataclasses import replace

import pytest
import torch
from aligned_for_tests import random_block

from knowfuse.fusion.avg_ce import avg_ce
from knowfuse.fusion.min_ce import min_ce
from knowfuse.fusion.shares import shares_by_class, shares_by_domain, source_sums
from knowfuse.types import IGNORE, MASS_CLASSES, ROW_CLASSES

DOMAINS = ["prose", "code", "never seen"]
NAMES = ["one", "two", "three"]


def some_batch(seed: int):
    """Sources, labels and domains of a batch: a domain a document, and rows that predict nothing."""
    block = random_block(3, seed)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.where(torch.rand(2, 9, generator=generator) < 0.8, 5, IGNORE)
    labels[:, -1] = IGNORE
    block.sources.budget = torch.rand(2, 3, 6, generator=generator)
    block.sources.row_classes = torch.randint(0, 9, (2, 3, 4), generator=generator).float()
    return block, labels, (block.document_ids - 1).clamp(min=0) % 2


@pytest.mark.parametrize("rule", [min_ce, avg_ce])
def test_shares_are_means_over_the_labelled_rows_of_a_domain(rule) -> None:
    """Of two batches added together; a domain without a row has no figure."""
    total, rows = None, []
    for seed in (0, 1):
        block, labels, domains = some_batch(seed)
        fused = rule(block.sources, block.document_ids, block.label_bytes)
        sums = source_sums(block.sources, fused, labels, domains, 3)
        total = sums if total is None else total + sums
        rows += [
            (DOMAINS[domains[b, t]], fused.weights[b, :, t].tolist(), block.sources.is_aligned[b, :, t].tolist())
            for b in range(2)
            for t in range(9)
            if labels[b, t] != IGNORE
        ]
    assert total is not None
    found = shares_by_domain(total, NAMES, DOMAINS)
    assert found["labelled"] == {name: sum(domain == name for domain, *_ in rows) for name in DOMAINS[:2]}
    for s, name in enumerate(NAMES):
        assert list(found["share"][name]) == list(found["coverage"][name]) == DOMAINS[:2]
        for domain in DOMAINS[:2]:
            mine = [(weights[s], aligned[s]) for of, weights, aligned in rows if of == domain]
            share, coverage = (sum(column) / len(mine) for column in zip(*mine, strict=True))
            assert found["share"][name][domain] == pytest.approx(share, rel=1e-6)
            assert found["coverage"][name][domain] == pytest.approx(coverage, rel=1e-12)


def test_mass_and_rows_by_class_sum_to_1() -> None:
    """Each is its part of the source's own sum; a method without classes has none."""
    block, labels, domains = some_batch(0)
    fused = min_ce(block.sources, block.document_ids, block.label_bytes)
    found = shares_by_class(source_sums(block.sources, fused, labels, domains, 3), NAMES)
    for what, names, sums in (
        ("mass", MASS_CLASSES, block.sources.budget),
        ("rows", ROW_CLASSES, block.sources.row_classes),
    ):
        shares = found[what]
        assert sums is not None
        assert shares is not None
        for s, name in enumerate(NAMES):
            of_both = [sum(float(sums[b, s, c]) for b in range(2)) for c in range(len(names))]
            assert shares[name] == pytest.approx(
                {kind: mass / sum(of_both) for kind, mass in zip(names, of_both, strict=True)}, rel=1e-6
            )
    without = replace(block.sources, budget=None, row_classes=None)
    assert shares_by_class(source_sums(without, fused, labels, domains, 3), NAMES) == {"mass": None, "rows": None}
