"""Compiled edit distances against rapidfuzz's."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from knowfuse.alignment.edit_distance import edit_distances, encode

LETTERS = st.sampled_from("ab▁é🙂\n\0")
STRINGS = st.one_of(
    st.text(max_size=12),  # all of Unicode
    st.text(LETTERS, max_size=12),
    st.text(LETTERS, min_size=60, max_size=70),  # around the 64 characters of a machine word
    st.text(LETTERS, min_size=128, max_size=140),
)


@settings(max_examples=300)
@given(strings=st.lists(STRINGS, min_size=1, max_size=8))
def test_distances_are_those_of_rapidfuzz(strings: list[str]) -> None:
    every = np.arange(len(strings))
    expected = [[Levenshtein.distance(a, b) for b in strings] for a in strings]
    assert edit_distances(encode(strings), every, every).tolist() == expected


def test_lengths_at_the_edges_of_a_word() -> None:
    strings = [letter * length for length in (0, 1, 2, 63, 64, 65, 66, 128) for letter in "ab"] + ["ab" * 32, "ba" * 33]
    every = np.arange(len(strings))
    expected = [[Levenshtein.distance(a, b) for b in strings] for a in strings]
    assert edit_distances(encode(strings), every, every).tolist() == expected


def test_rows_and_columns_are_those_asked_for() -> None:
    encoded = encode(["the", "then", "", "hen"])
    assert edit_distances(encoded, np.array([3, 0]), np.array([1, 1, 2])).tolist() == [[1, 1, 3], [1, 1, 3]]
    for rows, columns in (([], [0]), ([0], []), ([], [])):
        got = edit_distances(encoded, np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64))
        assert got.shape == (len(rows), len(columns))
