"""The token map against dynamic programming in plain Python loops."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import training_text

from knowfuse.alignment.token_map import one_to_one

STRINGS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "abc", "", "cab", "é"]), min_size=1, max_size=12)


@cache
def slow_distance(a: str, b: str) -> int:
    """Levenshtein distance, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def slow_path(source: list[str], target: list[str]) -> list[tuple[int, int]]:
    """The pairs on the best path; ties prefer the diagonal, then the previous source token, then the target's."""
    best: dict[tuple[int, int], float] = {(-1, -1): 0.0}
    for i, a in enumerate(source):
        for j, b in enumerate(target):
            ways = [best.get(p, np.inf) for p in ((i - 1, j - 1), (i - 1, j), (i, j - 1))]
            best[i, j] = slow_distance(a, b) + min(ways)
    i, j = len(source) - 1, len(target) - 1
    path = [(i, j)]
    while (i, j) != (0, 0):
        ways = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = ways[int(np.argmin([best.get(p, np.inf) for p in ways]))]
        path.append((i, j))
    return path


def slow_one_to_one(source: list[str], target: list[str]) -> list[int]:
    path = slow_path(source, target)
    partners = [[i for i, j in path if j == t] for t in range(len(target))]
    return [p[0] if len(p) == 1 and sum(i == p[0] for i, _ in path) == 1 else -1 for p in partners]


@settings(max_examples=300, deadline=None)
@given(source=STRINGS, target=STRINGS)
def test_matches_are_those_of_the_plain_loops(source: list[str], target: list[str]) -> None:
    assert one_to_one(source, target).tolist() == slow_one_to_one(source, target)


def test_matches_of_a_document_are_those_of_the_plain_loops() -> None:
    words = " ".join(training_text()[:60]).split()[:150]
    halves = [part for word in words for part in (word[: len(word) // 2], word[len(word) // 2 :]) if part]
    assert one_to_one(words, halves).tolist() == slow_one_to_one(words, halves)
    assert one_to_one(halves, words).tolist() == slow_one_to_one(halves, words)


@settings(max_examples=100, deadline=None)
@given(source=STRINGS, target=STRINGS)
def test_the_map_is_monotone_and_one_to_one(source: list[str], target: list[str]) -> None:
    matched = [u for u in one_to_one(source, target).tolist() if u >= 0]
    assert matched == sorted(set(matched))


@given(tokens=STRINGS)
def test_a_sequence_matches_itself_token_for_token(tokens: list[str]) -> None:
    assert one_to_one(tokens, tokens).tolist() == list(range(len(tokens)))


@pytest.mark.parametrize(("source", "target"), [([], []), ([], ["a"]), (["a"], [])])
def test_nothing_matches_nothing(source: list[str], target: list[str]) -> None:
    assert one_to_one(source, target).tolist() == [-1] * len(target)


def test_ties_prefer_the_diagonal_then_the_previous_source_token() -> None:
    # All distances are 0: any path is best. The diagonal is walked to the edge, and the rest falls on token 0.
    assert one_to_one(["a"] * 4, ["a"] * 3).tolist() == [-1, 2, 3]
    assert one_to_one(["a"] * 3, ["a"] * 4).tolist() == [-1, -1, 1, 2]
    # The previous source token and the previous target token tie below the diagonal.
    source, target = ["ab", "", "cab"], ["a", "a", "abc", "a"]
    assert one_to_one(source, target).tolist() == slow_one_to_one(source, target) == [-1, -1, -1, -1]
    assert one_to_one(target, source).tolist() == slow_one_to_one(target, source)
