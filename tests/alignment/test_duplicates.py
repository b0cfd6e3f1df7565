"""Candidates on one target id against a dictionary."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from knowfuse.alignment.duplicates import drop_duplicates, merge_duplicates
from knowfuse.types import EMPTY

IDS = arrays(np.int64, (3, 6), elements=st.integers(-1, 3))
MASS = arrays(np.float64, (3, 6), elements=st.sampled_from([0.0, 0.01, 0.05, 0.1]))


@given(ids=IDS, mass=MASS)
def test_equal_ids_are_summed_and_the_rest_is_the_tail(ids: np.ndarray, mass: np.ndarray) -> None:
    topk, tail = merge_duplicates(ids, mass)
    for t in range(len(ids)):
        expected: dict[int, float] = {}
        for i, p in zip(ids[t].tolist(), mass[t].tolist(), strict=True):
            if i >= 0 and p > 0:
                expected[i] = expected.get(i, 0.0) + p
        filled = topk.log_probs[t] > EMPTY
        assert sorted(topk.ids[t][filled].tolist()) == sorted(expected)
        got = dict(zip(topk.ids[t][filled].tolist(), np.exp(topk.log_probs[t][filled]).tolist(), strict=True))
        np.testing.assert_allclose([got[i] for i in expected], list(expected.values()), rtol=1e-6)
        np.testing.assert_allclose(tail[t], 1 - sum(expected.values()), atol=1e-6)


@given(ids=IDS, mass=MASS)
def test_only_the_most_probable_of_equal_ids_is_kept(ids: np.ndarray, mass: np.ndarray) -> None:
    kept = drop_duplicates(ids, mass)
    for t in range(len(ids)):
        for i in set(ids[t].tolist()):
            rivals = np.flatnonzero(ids[t] == i)
            best = rivals[np.argmax(mass[t][rivals])]
            assert kept[t][rivals].tolist() == [mass[t][c] if c == best else 0.0 for c in rivals]
