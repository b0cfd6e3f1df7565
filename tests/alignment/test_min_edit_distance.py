"""MinED against the published algorithm in plain loops, and the options that it shares with EM and MS."""

import inspect
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import published
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_byte_exact import distribution, total_mass
from tokenizers_for_tests import FAMILIES, LOSSLESS, random_trace, surface, toy_surface

from knowfuse.alignment.exact_match import exact_match
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import Arrays, TokenizerPair
from knowfuse.traces.maps import MapStore
from knowfuse.types import AlignedSource, Aligner, SourceTrace, TopK

TEXT = "def wrap (text, width=70): Reformat the single paragraph in text so it fits in lines of no more than 70."
PAIRS = [(s, t) for s in FAMILIES for t in FAMILIES]


def assert_said(aligned: AlignedSource, expected: list[dict[int, float] | None]) -> None:
    """The very rows and ids of the plain loops; the probabilities within what float32 logarithms keep."""
    assert aligned.is_aligned.tolist() == [said is not None for said in expected]
    for t, said in enumerate(expected):
        if said is not None:
            got = distribution(aligned, t)
            assert got.keys() == said.keys()
            np.testing.assert_allclose([got[i] for i in said], list(said.values()), rtol=1e-5)
            np.testing.assert_allclose(aligned.tail[t], 1 - sum(said.values()), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("many_to_one", ["sum", "first"])
@pytest.mark.parametrize("complete", [(True, True), (True, False), (False, True), (False, False)])
def test_rows_are_those_of_the_published_algorithm(
    source: str, target: str, many_to_one: str, complete: tuple[bool, bool]
) -> None:
    trace = random_trace(surface(source), TEXT, 40, is_complete=complete[0])
    tokens = surface(target).tokenize(TEXT, is_complete=complete[1])
    aligned = min_edit_distance(TokenizerPair(surface(source), surface(target)), many_to_one=many_to_one)(
        trace, tokens, TEXT.encode()
    )
    assert aligned.is_aligned.mean() > 0.2
    id_map = plain_map(source, target)
    assert_said(
        aligned,
        published.align(trace, tokens, published.printed(surface(source), surface(target)), id_map, many_to_one),
    )


@cache
def plain_map(source: str, target: str) -> dict[int, int]:
    return published.vocabulary_map(surface(source), surface(target))


@cache
def aligner(source: str, target: str, unaligned: str, many_to_one: str) -> Aligner:
    pair = TokenizerPair(surface(source), surface(target))
    return min_edit_distance(pair, unaligned=unaligned, many_to_one=many_to_one)


@settings(max_examples=100)
@given(
    text=st.text(st.sampled_from("the wrap.(\n é🙂"), max_size=40),
    source=st.sampled_from(LOSSLESS),
    target=st.sampled_from(LOSSLESS),
    unaligned=st.sampled_from(["mask", "gold_next"]),
    many_to_one=st.sampled_from(["sum", "first"]),
)
def test_rows_of_random_texts_are_those_of_the_published_algorithm(
    text: str, source: str, target: str, unaligned: str, many_to_one: str
) -> None:
    trace, tokens = random_trace(surface(source), text, 8), surface(target).tokenize(text)
    aligned = aligner(source, target, unaligned, many_to_one)(trace, tokens, text.encode())
    id_map, printed = plain_map(source, target), published.printed(surface(source), surface(target))
    assert_said(aligned, published.align(trace, tokens, printed, id_map, many_to_one, unaligned))


def test_a_source_token_that_matches_two_serves_the_one_that_it_becomes() -> None:
    pieces = [*"abcxy", "xx", "yy", "xxxx", "yyyy", "ab"]
    merges = [("x", "x"), ("y", "y"), ("xx", "xx"), ("yy", "yy"), ("a", "b")]
    source, target = toy_surface([*pieces, "abc"], [*merges, ("ab", "c")]), toy_surface(pieces, merges)
    text = "xxxxabcyyyy"
    trace, tokens = random_trace(source, text, 3), target.tokenize(text)
    # source: xxxx, abc, yyyy. target: xxxx, ab, c, yyyy; both ab and c match abc alone, which becomes ab.
    pair = TokenizerPair(source, target)
    assert min_edit_distance(pair)(trace, tokens, text.encode()).is_aligned.tolist() == [1, 1, 1, 0, 1, 0]
    assert exact_match(pair)(trace, tokens, text.encode()).is_aligned.tolist() == [1, 1, 0, 0, 1, 0]


def test_the_map_is_made_once_and_found_again(tmp_path: Path) -> None:
    made: list[str] = []
    store = MapStore(tmp_path)

    def keep(name: str, make: Callable[[], Arrays]) -> Arrays:
        def counted() -> Arrays:
            made.append(name)
            return make()

        return store(name, counted)

    trace, tokens = random_trace(surface("neox"), TEXT, 5), surface("llama").tokenize(TEXT)
    said = [
        min_edit_distance(TokenizerPair(surface("neox"), surface("llama"), keep=keep))(trace, tokens, TEXT.encode())
        for _ in range(2)
    ]
    assert len(made) == 1
    assert np.array_equal(said[0].topk.ids, said[1].topk.ids)
    assert np.array_equal(said[0].topk.log_probs, said[1].topk.log_probs)
    min_edit_distance(TokenizerPair(surface("llama"), surface("neox"), keep=keep))
    assert len(set(made)) == 2, "another pair has another map"


@pytest.mark.parametrize("family", LOSSLESS)
def test_a_target_with_the_sources_tokenizer_hears_what_it_said(family: str) -> None:
    trace, tokens = random_trace(surface(family), TEXT, 10), surface(family).tokenize(TEXT)
    aligned = min_edit_distance(TokenizerPair(surface(family), surface(family)))(trace, tokens, TEXT.encode())
    assert aligned.is_aligned.tolist() == [True] * (len(tokens.ends) - 1) + [False]
    np.testing.assert_allclose(aligned.nll, trace.nll, rtol=1e-5, atol=1e-6)
    for t in range(len(tokens.ends) - 1):
        special = {surface(family).bos_id, 0} - {surface(family).eos_id}  # <unk> and <s> stand for no text
        strings = [surface(family).token_strings[i] for i in trace.topk.ids[t] if i not in special]
        assert {surface(family).token_strings[i] for i in distribution(aligned, t)} == set(strings)


@settings(max_examples=60)
@given(
    text=st.text(st.sampled_from("the wrap.(\n é🙂"), max_size=40),
    source=st.sampled_from(LOSSLESS),
    target=st.sampled_from(LOSSLESS),
    unaligned=st.sampled_from(["mask", "gold_next"]),
)
def test_mass_is_conserved_and_gold_rows_are_certain(text: str, source: str, target: str, unaligned: str) -> None:
    trace, tokens = random_trace(surface(source), text, 8), surface(target).tokenize(text)
    aligned = min_edit_distance(TokenizerPair(surface(source), surface(target)), unaligned=unaligned)(
        trace, tokens, text.encode()
    )
    np.testing.assert_allclose(total_mass(aligned)[aligned.is_aligned], 1.0, rtol=0, atol=1e-6)
    assert not aligned.is_aligned[-1]
    if unaligned == "gold_next":
        assert aligned.is_aligned[:-1].all()


def test_gold_next_is_certain_of_the_next_token_not_of_its_own() -> None:
    """Regression: the published code puts the one-hot of an unmatched position on the token AT the position."""
    source = toy_surface(["a", "b", "c", "ab"], [("a", "b")])
    target = toy_surface(["a", "b", "c"], [])
    trace, tokens = random_trace(source, "abcab", 3), target.tokenize("abcab")
    masked = min_edit_distance(TokenizerPair(source, target))(trace, tokens, b"abcab")
    aligned = min_edit_distance(TokenizerPair(source, target), unaligned="gold_next")(trace, tokens, b"abcab")
    unmatched = np.flatnonzero(~masked.is_aligned[:-1])
    assert len(unmatched) > 0
    for t in unmatched:
        assert aligned.is_aligned[t]
        assert aligned.tail[t] == 0.0
        assert distribution(aligned, t) == {int(tokens.input_ids[t + 1]): 1.0}
        assert tokens.input_ids[t] != tokens.input_ids[t + 1], "else this test could not fail"
    assert not aligned.is_aligned[-1], "the last row predicts nothing"
    for t in np.flatnonzero(masked.is_aligned):
        assert distribution(aligned, t) == distribution(masked, t)


def test_first_leaves_the_rest_to_the_tail() -> None:
    source, target = toy_surface(["a", "b", "ab", "ax"], []), toy_surface(["a", "b"], [])
    trace = random_trace(source, "ab", 4)  # a, ab and ax are nearest to a
    ids = np.array([[0, 2, 3, 1]] * len(trace.ends))
    log_probs = np.log(np.array([[0.4, 0.3, 0.1, 0.1]] * len(trace.ends), dtype=np.float32))
    trace = SourceTrace(trace.input_ids, trace.ends, TopK(ids, log_probs), trace.nll)
    tokens = target.tokenize("ab")
    summed = min_edit_distance(TokenizerPair(source, target), many_to_one="sum")(trace, tokens, b"ab")
    first = min_edit_distance(TokenizerPair(source, target), many_to_one="first")(trace, tokens, b"ab")
    np.testing.assert_allclose([distribution(summed, 0)[0], summed.tail[0]], [0.8, 0.1], rtol=1e-5)
    np.testing.assert_allclose([distribution(first, 0)[0], first.tail[0]], [0.4, 0.5], rtol=1e-5)


@pytest.mark.parametrize(("source", "target"), [("neox", "llama"), ("llama", "neox")])
def test_documents_of_one_token(source: str, target: str) -> None:
    for complete in (True, False):
        trace, tokens = random_trace(surface(source), "", 5, 0, complete), surface(target).tokenize("", complete)
        for unaligned in ("mask", "gold_next"):
            align = min_edit_distance(TokenizerPair(surface(source), surface(target)), unaligned=unaligned)
            assert align(trace, tokens, b"").is_aligned.tolist() == [True, False][not complete :]


def test_options_that_do_not_exist_are_named() -> None:
    with pytest.raises(ValueError, match=r"unaligned='gold' does not exist: choose one of \['mask', 'gold_next'\]"):
        inspect.unwrap(min_edit_distance)(TokenizerPair(surface("neox"), surface("llama")), unaligned="gold")  # type: ignore[arg-type]  # past the type checks


def test_a_pickled_aligner_says_the_same() -> None:
    trace, tokens = random_trace(surface("unigram"), TEXT, 5), surface("llama").tokenize(TEXT)
    align = min_edit_distance(TokenizerPair(surface("unigram"), surface("llama")))
    a, b = align(trace, tokens, TEXT.encode()), pickle.loads(pickle.dumps(align))(trace, tokens, TEXT.encode())
    assert np.array_equal(a.topk.ids, b.topk.ids)
    assert np.array_equal(a.topk.log_probs, b.topk.log_probs)
