"""EM against the published algorithm in plain loops."""

import inspect

import numpy as np
import published
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_byte_exact import distribution, total_mass
from test_min_edit_distance import PAIRS, TEXT, assert_said
from tokenizers_for_tests import LOSSLESS, random_trace, surface, toy_surface

from knowfuse.alignment.exact_match import exact_match
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import TokenizerPair


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("many_to_one", ["sum", "first"])
@pytest.mark.parametrize("unaligned", ["mask", "gold_next"])
def test_rows_are_those_of_the_published_algorithm(source: str, target: str, many_to_one: str, unaligned: str) -> None:
    trace, tokens = random_trace(surface(source), TEXT, 40), surface(target).tokenize(TEXT)
    pair = TokenizerPair(surface(source), surface(target))
    aligned = exact_match(pair, many_to_one=many_to_one, unaligned=unaligned)(trace, tokens, TEXT.encode())
    id_map = published.vocabulary_map(pair.source, pair.target, nearest=False)
    assert_said(
        aligned,
        published.align(trace, tokens, published.printed(pair.source, pair.target), id_map, many_to_one, unaligned),
    )
    np.testing.assert_allclose(total_mass(aligned)[aligned.is_aligned], 1.0, rtol=0, atol=1e-6)


@settings(max_examples=100)
@given(
    text=st.text(st.sampled_from("the wrap.(\n é🙂"), max_size=40),
    source=st.sampled_from(LOSSLESS),
    target=st.sampled_from(LOSSLESS),
)
def test_rows_of_random_texts_are_those_of_the_published_algorithm(text: str, source: str, target: str) -> None:
    trace, tokens = random_trace(surface(source), text, 8), surface(target).tokenize(text)
    pair = TokenizerPair(surface(source), surface(target))
    aligned = exact_match(pair)(trace, tokens, text.encode())
    id_map = published.vocabulary_map(pair.source, pair.target, nearest=False)
    assert_said(aligned, published.align(trace, tokens, published.printed(pair.source, pair.target), id_map, "sum"))


def test_a_space_breaks_a_match_that_min_edit_distance_keeps() -> None:
    source, target = toy_surface(["a", "b", "Ġ", "Ġa"], [("Ġ", "a")]), toy_surface(["a", "b", "Ġ"], [])
    trace, tokens = random_trace(source, "b ab", 3), target.tokenize("b ab")
    # source: b, Ġa, b. target: b, Ġ, a, b, whose Ġ is nothing without its mark and matches the b before it too.
    exact = exact_match(TokenizerPair(source, target))(trace, tokens, b"b ab").is_aligned.tolist()
    assert exact == [True, True, False, False, True, False]
    nearest = min_edit_distance(TokenizerPair(source, target))(trace, tokens, b"b ab").is_aligned.tolist()
    assert nearest == [True, True, False, True, True, False]


def test_gold_next_is_certain_of_the_next_token_not_of_its_own() -> None:
    """Regression: the published code puts the one-hot of an unmatched position on the token AT the position."""
    source, target = toy_surface(["a", "b", "Ġ", "Ġa"], [("Ġ", "a")]), toy_surface(["a", "b", "Ġ"], [])
    trace, tokens = random_trace(source, "b ab", 3), target.tokenize("b ab")
    aligned = exact_match(TokenizerPair(source, target), unaligned="gold_next")(trace, tokens, b"b ab")
    assert aligned.is_aligned.tolist() == [True] * 5 + [False]
    for t in (2, 3):
        assert distribution(aligned, t) == {int(tokens.input_ids[t + 1]): 1.0}
        assert aligned.tail[t] == 0.0


def test_options_that_do_not_exist_are_named() -> None:
    with pytest.raises(ValueError, match=r"many_to_one='mean' does not exist: choose one of \['sum', 'first'\]"):
        inspect.unwrap(exact_match)(TokenizerPair(surface("neox"), surface("llama")), many_to_one="mean")  # type: ignore[arg-type]  # past the type checks
