"""The vocabulary maps against loops over all pairs of printed tokens."""

import published
import pytest
from tokenizers_for_tests import FAMILIES, surface, toy_surface

from knowfuse.alignment.printed import with_common_mark, without_mark
from knowfuse.alignment.vocabulary_map import identical_strings, nearest_strings
from knowfuse.surface import Surface


def id_of(surface: Surface, token: str) -> int:
    return surface.token_strings.index(token)


def test_marks_of_all_families_become_one() -> None:
    for family, spaced, continued in (("llama", "▁text", "text"), ("neox", "Ġtext", "text"), ("unigram", "▁text", "e")):
        marked = with_common_mark(surface(family))
        assert marked[id_of(surface(family), spaced)] == "▁text"
        if continued in surface(family).token_strings:
            assert marked[id_of(surface(family), continued)] == continued
    marked = with_common_mark(surface("wordpiece"))
    assert marked[id_of(surface("wordpiece"), "text")] == "▁text"
    assert marked[id_of(surface("wordpiece"), "##e")] == "e"
    assert without_mark("▁text") == without_mark("text") == "text"


@pytest.mark.parametrize("source", FAMILIES)
@pytest.mark.parametrize("target", FAMILIES)
def test_maps_are_those_of_the_loops(source: str, target: str) -> None:
    """Identical strings first; else the first of the nearest."""
    for made, nearest in ((identical_strings, False), (nearest_strings, True)):
        expected = published.vocabulary_map(surface(source), surface(target), nearest)
        assert made(surface(source), surface(target)).tolist() == [
            expected.get(i, -1) for i in range(surface(source).vocabulary_size)
        ]


def test_a_space_makes_another_token() -> None:
    source = toy_surface(["a", "b", "Ġ", "Ġa"], [("Ġ", "a")])
    target = toy_surface(["b", "a"], [])
    assert identical_strings(source, target).tolist() == [1, 0, -1, -1, 2]
    assert nearest_strings(source, target).tolist() == [1, 0, 0, 1, 2], "ties go to the first: Ġ is one step from both"
