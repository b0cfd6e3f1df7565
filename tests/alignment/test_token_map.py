"""The token map against dynamic programming in plain Python loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import time_warp
from tokenizers_for_tests import training_text

from knowfuse.alignment.edit_distance import encode
from knowfuse.alignment.token_map import matched_pairs, only_matches

STRINGS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "abc", "", "cab", "é"]), min_size=1, max_size=40)


def pairs_of(source: list[str], target: list[str], numbered: list[str] | None = None) -> list[tuple[int, int]]:
    """The matched pairs, with the different strings numbered in the order of `numbered`."""
    strings = numbered or sorted({*source, *target})
    ids = [np.array([strings.index(s) for s in tokens], dtype=np.int64) for tokens in (source, target)]
    return [(int(u), int(t)) for u, t in matched_pairs(encode(strings), *ids)]


def only(source: list[str], target: list[str]) -> list[int]:
    pairs = np.array(pairs_of(source, target), dtype=np.int64).reshape(-1, 2)
    return only_matches(pairs, len(target)).tolist()


@settings(max_examples=300)
@given(source=STRINGS, target=STRINGS)
def test_pairs_are_those_of_the_plain_loops(source: list[str], target: list[str]) -> None:
    assert pairs_of(source, target) == time_warp(source, target)


def test_pairs_of_a_document_are_those_of_the_plain_loops() -> None:
    words = " ".join(training_text()[:60]).split()[:150]
    halves = [part for word in words for part in (word[: len(word) // 2], word[len(word) // 2 :]) if part]
    assert pairs_of(words, halves) == time_warp(words, halves)
    assert pairs_of(halves, words) == time_warp(halves, words)


@settings(max_examples=100)
@given(source=STRINGS, target=STRINGS, data=st.data())
def test_the_numbers_of_the_strings_do_not_matter(source: list[str], target: list[str], data: st.DataObject) -> None:
    numbered = data.draw(st.permutations(sorted({*source, *target, "unused"})))
    assert pairs_of(source, target, numbered) == pairs_of(source, target)


@settings(max_examples=100)
@given(source=STRINGS, target=STRINGS)
def test_the_map_is_monotone_and_reaches_every_token(source: list[str], target: list[str]) -> None:
    pairs = np.array(pairs_of(source, target)[::-1])
    steps = np.diff(pairs, axis=0)
    assert ((steps >= 0) & (steps <= 1)).all()
    assert (steps.sum(-1) > 0).all()
    assert pairs[0].tolist() == [0, 0]
    assert pairs[-1].tolist() == [len(source) - 1, len(target) - 1]


@given(tokens=STRINGS)
def test_a_sequence_matches_itself_token_for_token(tokens: list[str]) -> None:
    assert only(tokens, tokens) == list(range(len(tokens)))


@pytest.mark.parametrize(("source", "target"), [([], []), ([], ["a"]), (["a"], [])])
def test_nothing_matches_nothing(source: list[str], target: list[str]) -> None:
    assert only(source, target) == [-1] * len(target)


def test_a_target_token_with_several_source_tokens_has_no_match_a_source_token_with_several_has() -> None:
    assert only(["xxxx", "ab", "c", "yyyy"], ["xxxx", "abc", "yyyy"]) == [0, -1, 3]
    assert only(["xxxx", "abc", "yyyy"], ["xxxx", "ab", "c", "yyyy"]) == [0, 1, 1, 2]


def test_ties_prefer_the_diagonal_then_the_previous_source_token() -> None:
    # All distances are 0: any path is best. The diagonal is walked to the edge, and the rest falls on token 0.
    assert pairs_of(["a"] * 4, ["a"] * 3) == [(3, 2), (2, 1), (1, 0), (0, 0)]
    assert pairs_of(["a"] * 3, ["a"] * 4) == [(2, 3), (1, 2), (0, 1), (0, 0)]
    # The previous source token and the previous target token tie below the diagonal.
    source, target = ["ab", "", "cab"], ["a", "a", "abc", "a"]
    assert pairs_of(source, target) == time_warp(source, target)
    assert pairs_of(target, source) == time_warp(target, source)
