"""No mass on a target token that the target LLM has no row for, by any method; and none of it is lost."""

from dataclasses import replace

import numpy as np
import pytest
from alignments_for_tests import METHODS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import random_trace, surface, training_text

from knowfuse.alignment.byte_exact import UNMAPPED, byte_exact
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.text.document import Document
from knowfuse.text.documents import Documents
from knowfuse.types import EMPTY

TEXTS = [text for text in training_text() if len(text) > 10][:40]
DOCUMENTS = Documents.of([Document(text, "code", "fusion") for text in TEXTS[:5]])
PAIRS = [("unigram", "neox"), ("neox", "llama"), ("llama", "llama"), ("neox", "neox")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("source", "target"), PAIRS)
@settings(max_examples=12, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.sampled_from(TEXTS), spare=st.integers(0, 60), seed=st.integers(0, 5))
def test_nothing_is_said_of_ids_without_a_row(
    method: str, source: str, target: str, text: str, spare: int, seed: int
) -> None:
    """The model has the rows that the text needs and a few more; the source names any token of its own."""
    whole = surface(target)
    tokens = whole.tokenize(text)
    rows = min(int(tokens.input_ids.max()) + 1 + spare, whole.vocabulary_size)
    few = replace(whole, rows=rows)
    align = METHODS[method](TokenizerPair(surface(source), few, DOCUMENTS))
    aligned = align(random_trace(surface(source), text, 0, seed=seed), tokens, text.encode())
    is_filled = (aligned.topk.log_probs > EMPTY) & aligned.is_aligned[:, None]
    assert aligned.topk.ids[is_filled].max(initial=0) < rows
    given_away = np.exp(aligned.topk.log_probs, dtype=np.float64).sum(-1) + aligned.tail
    np.testing.assert_allclose(given_away[aligned.is_aligned], 1.0, atol=2e-6, rtol=0.0)  # float32 of about 500 slots
    if aligned.budget is not None:
        np.testing.assert_allclose(aligned.budget[aligned.is_aligned].sum(-1), 1.0, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_what_the_target_cannot_say_is_unmapped(source: str, target: str) -> None:
    """By byte_exact, row by row: the mass on the ids without a row, and nothing else, went from a class to that one."""
    text = TEXTS[0]
    whole = surface(target)
    tokens = whole.tokenize(text)
    rows = int(tokens.input_ids.max()) + 1
    assert rows < whole.vocabulary_size
    trace = random_trace(surface(source), text, 0)
    before, after = (
        byte_exact(TokenizerPair(surface(source), its))(trace, tokens, text.encode())
        for its in (whole, replace(whole, rows=rows))
    )
    probs = np.exp(before.topk.log_probs, dtype=np.float64)
    lost = np.where(before.topk.ids >= rows, probs, 0.0).sum(-1)[before.is_aligned]
    assert before.budget is not None
    assert after.budget is not None
    moved = (after.budget - before.budget)[before.is_aligned]
    assert lost.max() > 0.01
    np.testing.assert_allclose(moved[:, UNMAPPED], lost, atol=1e-6, rtol=0.0)
    np.testing.assert_array_equal(after.is_aligned, before.is_aligned)


def test_maps_of_other_rows_are_other_maps() -> None:
    names = []
    for rows in (None, 400):
        pair = TokenizerPair(
            surface("unigram"),
            replace(surface("neox"), rows=rows),
            keep=lambda name, make: names.append(name) or make(),
        )
        min_edit_distance(pair)
    assert len(set(names)) == len(names) == 2
