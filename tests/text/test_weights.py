"""Shares are kept at every moment, and what is drawn is a permutation by its seed."""

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowfuse.text import weights as weights_module
from knowfuse.text.weights import drawn, interleaved

SIZES = st.lists(st.integers(1, 50), max_size=40)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from("abcd"), SIZES, min_size=1), st.data())
def test_the_sizes_are_as_the_weights_within_one_item(sizes: dict[str, list[int]], data: st.DataObject) -> None:
    """Until the one that is due has no more; the items of each are its first ones, in order."""
    weights = {name: data.draw(st.floats(0.1, 10)) for name in sizes}
    taken = dict.fromkeys(sizes, 0)
    streams = {name: iter([(name, size) for size in of]) for name, of in sizes.items()}
    got: list[tuple[str, int]] = []
    for item in interleaved(streams, weights, lambda item: item[1], taken):
        got.append(item)
        largest = max(50 / weight for weight in weights.values())
        for a, b in itertools.combinations(sizes, 2):
            sums = {name: sum(size for n, size in got if n == name) / weights[name] for name in (a, b)}
            assert abs(sums[a] - sums[b]) <= largest + 1e-6
    for name, of in sizes.items():
        mine = [size for n, size in got if n == name]
        assert mine == of[: len(mine)]
        assert taken[name] == sum(mine)
    ended = min(sizes, key=lambda name: taken[name] / weights[name])
    assert taken[ended] == sum(sizes[ended])


def test_items_of_no_size_go_through() -> None:
    streams = {"a": iter([0, 0, 3]), "b": iter([1, 1, 1, 1])}
    assert list(interleaved(streams, {"a": 1.0, "b": 1.0}, int, {"a": 0, "b": 0})) == [0, 0, 3, 1, 1, 1]


@pytest.mark.parametrize(("pool", "num_bytes"), [(10, 10**9), (10**9, 60), (10**9, 1)])
def test_all_are_drawn_once_from_a_pool(pool: int, num_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "POOL_TEXTS", pool)
    monkeypatch.setattr(weights_module, "POOL_BYTES", num_bytes)
    texts = [f"text {n}" for n in range(200)]
    first = list(drawn(texts, "0 a"))
    assert Counter(first) == Counter(texts)
    assert first == list(drawn(iter(texts), "0 a"))
    if num_bytes > 1:
        assert first != texts
        assert first != list(drawn(texts, "1 a"))
        assert all(abs(first.index(text) - n) < 120 for n, text in enumerate(texts[:60])), "what is near stays near"


def test_a_pool_holds_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "POOL_TEXTS", 10)
    given, got = 0, 0

    def texts() -> Iterator[str]:
        nonlocal given
        for n in range(100):
            given += 1
            assert given - got <= 11
            yield str(n)

    for _ in drawn(texts(), "0"):
        got += 1
    assert got == 100
