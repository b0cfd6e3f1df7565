"""What a source spent on each target token, against a sum over single bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import LOSSLESS, random_trace, surface

from knowfuse.alignment.spent import spent_on_target_tokens
from knowfuse.surface.turns import ends_with_eos
from knowfuse.types import SourceTrace, TokenizedDocument

TEXT = "def wrap(text):\n    the 🙂 é  paragraph"


def slow_spent(trace: SourceTrace, target: TokenizedDocument, complete: tuple[bool, bool]) -> np.ndarray:
    """Every source token's nats, shared out over its bytes one by one; a token of no bytes goes to the first row."""
    num_bytes = int(target.ends[-1])
    nats, tokens, first = np.zeros(num_bytes), np.zeros(num_bytes), np.zeros(2)
    last = len(trace.ends) - complete[0]
    for u in range(1, last):
        start, end = trace.ends[u - 1], trace.ends[u]
        cost = np.array([trace.nll[u - 1], 1.0])
        if end == start:
            first += cost
            continue
        nats[start:end] += cost[0] / (end - start)
        tokens[start:end] += cost[1] / (end - start)
    rows = [(nats[a:b].sum(), tokens[a:b].sum()) for a, b in zip(target.ends[:-1], target.ends[1:], strict=True)]
    if complete == (True, True):
        rows[-1] = (trace.nll[-2], 1.0)
    rows[0] = (rows[0][0] + first[0], rows[0][1] + first[1])
    return np.array([*rows, (0.0, 0.0)])


@pytest.mark.parametrize("source", LOSSLESS)
@pytest.mark.parametrize("target", LOSSLESS)
@pytest.mark.parametrize("complete", [(True, True), (False, False), (True, False), (False, True)])
@pytest.mark.parametrize("text", [TEXT, "x", "🙂", " a", "\n"])
def test_nats_and_tokens_are_those_of_the_bytes(
    source: str, target: str, complete: tuple[bool, bool], text: str
) -> None:
    trace = random_trace(surface(source), text, 1, is_complete=complete[0])
    tokens = surface(target).tokenize(text, is_complete=complete[1])
    nll, source_tokens = spent_on_target_tokens(trace, tokens)
    expected = slow_spent(trace, tokens, complete)
    assert nll.dtype == source_tokens.dtype == np.float32
    np.testing.assert_allclose(nll, expected[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(source_tokens, expected[:, 1], rtol=1e-5, atol=1e-5)


@settings(max_examples=100)
@given(
    text=st.text(st.sampled_from("the wrap.(\n é🙂"), max_size=30),
    source=st.sampled_from(LOSSLESS),
    target=st.sampled_from(LOSSLESS),
)
def test_sums_over_a_document_are_the_sources_own(text: str, source: str, target: str) -> None:
    trace, tokens = random_trace(surface(source), text, 1), surface(target).tokenize(text)
    nll, source_tokens = spent_on_target_tokens(trace, tokens)
    np.testing.assert_allclose(nll.sum(), trace.nll.sum(), rtol=1e-5)
    np.testing.assert_allclose(source_tokens.sum(), len(trace.ends) - 1, rtol=1e-5)
    assert nll[-1] == source_tokens[-1] == 0.0


def test_the_end_of_a_document_is_a_token_of_no_bytes() -> None:
    assert [ends_with_eos(np.array(ends)) for ends in ([0], [0, 0], [0, 3], [0, 3, 3])] == [False, True, False, True]
