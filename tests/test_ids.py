"""Ids of fixed width: names come back, and places are what a dict would say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowfuse.ids import IdIndex, hex_names, id_array

# Ids of which many are equal, share their first 8 bytes, or end in zeros.
IDS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3)).map(
        lambda parts: f"{parts[0] << 62:016x}{parts[1] << 24:08x}"  # 8 bytes, then 4
    ),
    max_size=20,
)


@given(IDS)
def test_names_come_back(names: list[str]) -> None:
    assert hex_names(id_array(names)) == names


@given(IDS, IDS)
def test_places_are_those_of_a_dict(names: list[str], wanted: list[str]) -> None:
    """Of an id that is there twice the first place."""
    places = {name: place for place, name in reversed(list(enumerate(names)))}
    found = IdIndex(id_array(names))
    assert found.places(id_array(wanted)).tolist() == [places.get(name, -1) for name in wanted]
    assert [found.place(name) for name in wanted] == [places.get(name, -1) for name in wanted]


def test_many_ids_are_found() -> None:
    ids = np.frombuffer(np.random.default_rng(0).bytes(12 * 5000), "V12")
    order = np.random.default_rng(1).permutation(5000)
    assert np.array_equal(IdIndex(ids[order]).places(ids), np.argsort(order))
    assert (IdIndex(ids[:2500]).places(ids[2500:]) == -1).all()


def test_a_name_that_is_no_id() -> None:
    with pytest.raises(ValueError, match=r"a document is named 'a': an id is 24 hex digits"):
        id_array(["a"])
