"""Shapes and dtypes are refused where they are wrong, at construction."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from knowfuse.types import (
    AlignedSource,
    AlignedSources,
    FusedTarget,
    FusionBatch,
    LLMSpec,
    Recipe,
    SourceTrace,
    TopK,
)

RECIPE = Recipe(
    architecture="llama",
    tokenizer_family="unigram",
    domain="code",
    vocabulary_size=300,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    context_length=64,
    max_steps=1,
    batch_tokens=64,
    learning_rate=1e-3,
)


def topk(*shape: int) -> TopK:
    return TopK(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape))


def trace_fields(length: int = 3) -> dict:
    ints = np.arange(length)
    return {
        "input_ids": ints,
        "ends": ints,
        "topk": TopK(np.zeros((length, 2), np.int64), np.zeros((length, 2), np.float32)),
        "nll": np.zeros(length, np.float32),
    }


def sources_fields() -> dict:
    rows = torch.zeros(2, 3, 4)
    return {"topk": topk(2, 3, 4, 5), "tail": rows, "nll": rows, "source_tokens": rows, "is_aligned": rows.bool()}


def batch_fields() -> dict:
    names = ("input_ids", "labels", "position_ids", "document_ids", "label_bytes", "domains")
    return {name: torch.zeros(2, 4, dtype=torch.int64) for name in names}


def fused_fields() -> dict:
    rows = torch.zeros(2, 4)
    return {"topk": topk(2, 4, 5), "tail": rows, "weights": torch.zeros(2, 3, 4), "has_target": rows.bool()}


def test_topk_takes_numpy_and_torch_of_any_rank() -> None:
    for shape in [(4,), (3, 4), (2, 3, 4, 5)]:
        topk(*shape)
        TopK(np.zeros(shape, np.int32), np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("ids", "log_probs"),
    [
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 5)),  # another K
        (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(3, 4)),  # other rows
        (torch.zeros(3, 4), torch.zeros(3, 4)),  # ids that are floats
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.bfloat16)),
        (np.zeros((3, 4), np.int64), np.zeros((3, 4), np.float64)),
    ],
)
def test_topk_refuses(ids: object, log_probs: object) -> None:
    with pytest.raises(TypeCheckError, match="TopK"):
        TopK(ids, log_probs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "fields", "wrong"),
    [
        (SourceTrace, trace_fields, {"ends": np.arange(4)}),
        (SourceTrace, trace_fields, {"nll": np.zeros(3, np.float64)}),
        (SourceTrace, trace_fields, {"input_ids": np.zeros(3, np.float32)}),
        (AlignedSources, sources_fields, {"tail": torch.zeros(2, 3, 5)}),
        (AlignedSources, sources_fields, {"is_aligned": torch.zeros(2, 3, 4)}),
        (AlignedSources, sources_fields, {"nll": torch.zeros(2, 3, 4, dtype=torch.bfloat16)}),
        (FusionBatch, batch_fields, {"labels": torch.zeros(2, 5, dtype=torch.int64)}),
        (FusionBatch, batch_fields, {"position_ids": torch.zeros(2, 4)}),
        (FusedTarget, fused_fields, {"tail": torch.zeros(2, 5)}),
        (FusedTarget, fused_fields, {"weights": torch.zeros(2, 3, 5)}),
        (FusedTarget, fused_fields, {"has_target": torch.zeros(2, 4)}),
    ],
)
def test_a_field_of_another_shape_or_dtype_is_refused(made: type, fields: object, wrong: dict) -> None:
    right = fields()  # type: ignore[operator]
    made(**right)
    with pytest.raises(TypeCheckError, match=next(iter(wrong))):
        made(**(right | wrong))


def test_aligned_source_is_a_document_without_batch_axes() -> None:
    rows = np.zeros(3, np.float32)
    word = TopK(np.zeros((3, 2), np.int64), np.zeros((3, 2), np.float32))
    AlignedSource(word, rows, rows, rows, rows.astype(bool))
    with pytest.raises(TypeCheckError, match="tail"):
        AlignedSource(word, rows[None], rows, rows, rows.astype(bool))


@pytest.mark.parametrize("arguments", [{}, {"path": "org/llm", "recipe": RECIPE}])
def test_an_llm_has_exactly_one_origin(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"either a path or a recipe.*set exactly one of the two"):
        LLMSpec(**arguments)
