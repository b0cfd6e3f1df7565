"""MinED against a slow reading of the paper, and the options that it shares with EM."""

import inspect
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_byte_exact import distribution, total_mass
from test_token_map import slow_one_to_one
from tokenizers_for_tests import FAMILIES, LOSSLESS, random_trace, surface, toy_surface

from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.printed import with_common_mark, without_mark
from knowfuse.alignment.vocabulary_map import nearest_strings
from knowfuse.surface import Surface
from knowfuse.types import SourceTrace, TokenizedDocument, TopK

TEXT = "def wrap (text, width=70): Reformat the single paragraph in text so it fits in lines of no more than 70."
PAIRS = [(s, t) for s in FAMILIES for t in FAMILIES]


def slow_rows(trace: SourceTrace, target: TokenizedDocument, source: Surface, target_surface: Surface) -> list[int]:
    """The source row of each target row: BOS to BOS, then one-to-one matches of the printed text tokens; -1 else."""
    theirs, ours = with_common_mark(source), with_common_mark(target_surface)
    source_text = [i for i in trace.input_ids[1:] if i != source.eos_id]
    target_text = [i for i in target.input_ids[1:] if i != target_surface.eos_id]
    matches = slow_one_to_one(
        [without_mark(theirs[i] or "") for i in source_text], [without_mark(ours[i] or "") for i in target_text]
    )
    rows = [0, *(u + 1 if u >= 0 else -1 for u in matches)]
    rows = [u if u < len(trace.input_ids) - 1 else -1 for u in rows]
    return [*rows, -1] if len(rows) < len(target.input_ids) else [*rows[:-1], -1]


def slow_row(trace: SourceTrace, row: int, id_map: np.ndarray) -> dict[int, list[float]]:
    """The probabilities that land on each target id, as a list of its candidates."""
    landed: dict[int, list[float]] = {}
    for i, p in zip(trace.topk.ids[row], np.exp(trace.topk.log_probs[row]), strict=True):
        if id_map[i] >= 0:
            landed.setdefault(int(id_map[i]), []).append(float(p))
    return landed


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("many_to_one", ["sum", "first"])
@pytest.mark.parametrize("complete", [(True, True), (True, False), (False, True), (False, False)])
def test_rows_are_those_of_the_slow_reading(
    source: str, target: str, many_to_one: str, complete: tuple[bool, bool]
) -> None:
    trace = random_trace(surface(source), TEXT, 40, is_complete=complete[0])
    tokens = surface(target).tokenize(TEXT, is_complete=complete[1])
    aligned = min_edit_distance(TokenizerPair(surface(source), surface(target)), many_to_one=many_to_one)(
        trace, tokens, TEXT.encode()
    )
    rows, id_map = (
        slow_rows(trace, tokens, surface(source), surface(target)),
        nearest_strings(surface(source), surface(target)),
    )
    assert aligned.is_aligned.tolist() == [u >= 0 for u in rows]
    assert aligned.is_aligned.mean() > 0.3
    add = {"sum": sum, "first": max}[many_to_one]
    for t, row in enumerate(rows):
        if row >= 0:
            expected = {i: add(ps) for i, ps in slow_row(trace, row, id_map).items()}
            got = distribution(aligned, t)
            assert got.keys() == expected.keys()
            np.testing.assert_allclose([got[i] for i in expected], list(expected.values()), rtol=1e-5)
    np.testing.assert_allclose(total_mass(aligned)[aligned.is_aligned], 1.0, rtol=0, atol=1e-6)


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


@settings(max_examples=60, deadline=None)
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
