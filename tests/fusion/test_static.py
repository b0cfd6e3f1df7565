"""Fixed weights against loops over rows and sources, in Python floats; weights that are none are refused by name."""

from typing import Any

import pytest
import torch
from aligned_for_tests import dense, dense_sources, random_block

from knowfuse.fusion.avg_ce import avg_ce
from knowfuse.fusion.static import static

NAMES = ["a", "b", "c", "d"]
WEIGHTS = {"d": 0.4, "a": 0.3, "c": 0.2, "b": 0.1}  # in another order than the sources


@pytest.mark.parametrize("num_sources", [1, 2, 4])
def test_weights_are_shared_among_the_sources_aligned_at_a_row(num_sources: int) -> None:
    block = random_block(num_sources, aligned_share=0.6)
    names = NAMES[:num_sources]
    total = sum(WEIGHTS[name] for name in names)
    weights = {name: WEIGHTS[name] / total for name in reversed(names)}
    fused = static(block.sources, block.document_ids, block.label_bytes, weights=weights, source_names=names)
    want = torch.zeros(2, num_sources, 9, dtype=torch.float64)
    for b in range(2):
        for t in range(9):
            present = [s for s in range(num_sources) if block.sources.is_aligned[b, s, t]]
            for s in present:
                want[b, s, t] = weights[names[s]] / sum(weights[names[x]] for x in present)
    torch.testing.assert_close(fused.weights.double(), want, rtol=1e-6, atol=0.0)  # float32
    mixed = (want[..., None] * dense_sources(block.sources)).sum(1)
    torch.testing.assert_close(dense(fused.topk, fused.tail), mixed, rtol=5e-6, atol=1e-7)  # type: ignore[arg-type]
    assert torch.equal(fused.has_target, block.sources.is_aligned.any(1))


def test_rows_without_a_source_have_no_weights_and_no_nan() -> None:
    block = random_block(3, aligned_share=0.3)
    weights = {"a": 0.2, "b": 0.3, "c": 0.5}
    fused = static(block.sources, block.document_ids, block.label_bytes, weights=weights, source_names=NAMES[:3])
    nowhere = ~block.sources.is_aligned.any(1)
    assert nowhere.sum() > 2
    assert torch.equal(fused.weights.sum(1)[nowhere], torch.zeros(int(nowhere.sum())))
    assert not fused.topk.log_probs.isnan().any()


def test_equal_weights_are_a_hot_avg_ce() -> None:
    block = random_block(4, aligned_share=0.6)
    weights = dict.fromkeys(NAMES, 0.25)
    fused = static(block.sources, block.document_ids, block.label_bytes, weights=weights, source_names=NAMES)
    hot = avg_ce(block.sources, block.document_ids, block.label_bytes, temperature=1e9)
    torch.testing.assert_close(fused.weights, hot.weights, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 0.5, "z": 0.5}, r"fusion\.weights names 'z', which is no source: the sources are \['a', 'b'\]"),
        (
            {"a": 1.0},
            r"fusion\.weights has no weight for source 'b': give each of \['a', 'b'\] one, or leave the source out",
        ),
        (
            {"a": 1.0, "b": 0.0},
            r"fusion\.weights\.b is 0\.0: it must be a number above 0; a source that nobody is to believe",
        ),
        ({"a": 2.0, "b": -1.0}, r"fusion\.weights\.b is -1\.0: it must be a number above 0"),
        ({"a": 0.5, "b": float("nan")}, r"fusion\.weights\.b is nan: it must be a number above 0"),
        (
            {"a": 0.5, "b": 0.3},
            r"fusion\.weights sum to 0\.8: they must sum to 1, in their ratio \{a: 0\.625, b: 0\.375\}",
        ),
        ({"a": 2, "b": 6}, r"fusion\.weights sum to 8: they must sum to 1, in their ratio \{a: 0\.25, b: 0\.75\}"),
    ],
)
def test_weights_that_are_none_are_refused(weights: dict[str, Any], message: str) -> None:
    block = random_block(2)
    with pytest.raises(ValueError, match=message):
        static(block.sources, block.document_ids, block.label_bytes, weights=weights, source_names=["a", "b"])
