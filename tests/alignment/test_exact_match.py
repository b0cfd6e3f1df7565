"""EM against a slow reading of the paper: MinED's matches, of identical strings only."""

import inspect

import numpy as np
import pytest
from test_byte_exact import distribution, total_mass
from test_min_edit_distance import PAIRS, TEXT, slow_row, slow_rows
from tokenizers_for_tests import random_trace, surface, toy_surface

from knowfuse.alignment.exact_match import exact_match
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.printed import with_common_mark
from knowfuse.alignment.vocabulary_map import identical_strings


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_rows_are_those_of_the_slow_reading(source: str, target: str) -> None:
    trace, tokens = random_trace(surface(source), TEXT, 40), surface(target).tokenize(TEXT)
    aligned = exact_match(TokenizerPair(surface(source), surface(target)))(trace, tokens, TEXT.encode())
    theirs, ours = with_common_mark(surface(source)), with_common_mark(surface(target))
    rows = slow_rows(trace, tokens, surface(source), surface(target))
    for t, u in enumerate(rows):
        if u > 0 and theirs[trace.input_ids[u]] != ours[tokens.input_ids[t]]:
            rows[t] = -1
    assert aligned.is_aligned.tolist() == [u >= 0 for u in rows]
    id_map = identical_strings(surface(source), surface(target))
    for t, u in enumerate(rows):
        if u >= 0:
            expected = {i: sum(ps) for i, ps in slow_row(trace, u, id_map).items()}
            got = distribution(aligned, t)
            assert got.keys() == expected.keys()
            np.testing.assert_allclose([got[i] for i in expected], list(expected.values()), rtol=1e-5)
            np.testing.assert_allclose(aligned.tail[t], 1 - sum(expected.values()), rtol=0, atol=1e-6)
    np.testing.assert_allclose(total_mass(aligned)[aligned.is_aligned], 1.0, rtol=0, atol=1e-6)


def test_a_space_breaks_a_match_that_min_edit_distance_keeps() -> None:
    source, target = toy_surface(["a", "b", "Ġ", "Ġa"], [("Ġ", "a")]), toy_surface(["a", "b", "Ġ"], [])
    trace, tokens = random_trace(source, "b ab", 3), target.tokenize("b ab")
    # source: b, Ġa, b. target: b, Ġ, a, b, whose Ġ is nothing without its mark and joins the b before it.
    exact = exact_match(TokenizerPair(source, target))(trace, tokens, b"b ab").is_aligned.tolist()
    assert exact == [True, False, False, False, True, False]
    nearest = min_edit_distance(TokenizerPair(source, target))(trace, tokens, b"b ab").is_aligned.tolist()
    assert nearest == [True, False, False, True, True, False]


def test_gold_next_is_certain_of_the_next_token_not_of_its_own() -> None:
    """Regression: the published code puts the one-hot of an unmatched position on the token AT the position."""
    source, target = toy_surface(["a", "b", "Ġ", "Ġa"], [("Ġ", "a")]), toy_surface(["a", "b", "Ġ"], [])
    trace, tokens = random_trace(source, "b ab", 3), target.tokenize("b ab")
    aligned = exact_match(TokenizerPair(source, target), unaligned="gold_next")(trace, tokens, b"b ab")
    assert aligned.is_aligned.tolist() == [True] * 5 + [False]
    for t in (1, 2, 3):
        assert distribution(aligned, t) == {int(tokens.input_ids[t + 1]): 1.0}
        assert aligned.tail[t] == 0.0


def test_options_that_do_not_exist_are_named() -> None:
    with pytest.raises(ValueError, match=r"many_to_one='mean' does not exist: choose one of \['sum', 'first'\]"):
        inspect.unwrap(exact_match)(TokenizerPair(surface("neox"), surface("llama")), many_to_one="mean")  # type: ignore[arg-type]  # past the type checks
