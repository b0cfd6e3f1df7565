"""The nearest of many strings against measuring all of them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein
from tokenizers_for_tests import training_text

from knowfuse.alignment.edit_distance import encode
from knowfuse.alignment.nearest import nearest_choices


def slow_nearest(queries: list[str], choices: list[str]) -> list[int]:
    """`argmin` takes the first of equals."""
    return process.cdist(queries, choices, scorer=Levenshtein.distance, dtype=np.int32).argmin(-1).tolist()


def nearest(queries: list[str], choices: list[str]) -> list[int]:
    strings = encode([*queries, *choices])
    return nearest_choices(strings, np.arange(len(queries)), len(queries) + np.arange(len(choices))).tolist()


# Few letters and short strings: nearly every answer is a tie.
STRINGS = st.one_of(st.text(st.sampled_from("aab▁é"), max_size=6), st.text(max_size=4), st.text("ab", max_size=80))


@settings(max_examples=300)
@given(queries=st.lists(STRINGS, min_size=1, max_size=6), choices=st.lists(STRINGS, min_size=1, max_size=40))
def test_answers_and_ties_are_those_of_measuring_all(queries: list[str], choices: list[str]) -> None:
    assert nearest(queries, choices) == slow_nearest(queries, choices)


def test_words_of_a_text() -> None:
    """More letters than a signature has bits of their own for."""
    words = sorted(set(" ".join(training_text()).split()))
    other = [chr(0x4E00 + 7 * i % 500) + word[: i % 9] for i, word in enumerate(words)]
    for queries, choices in ((words, other), (other, words)):
        order = np.random.default_rng(0).permutation(len(choices))
        shuffled = [choices[i] for i in order]
        assert nearest(queries, shuffled) == slow_nearest(queries, shuffled)
