"""optimal_transport against the published iteration in plain loops, and what it does with a source that is the target."""

from dataclasses import replace

import numpy as np
import pytest
from test_byte_exact import distribution, total_mass
from tokenizers_for_tests import random_trace, surface

from knowfuse.alignment.matched_rows import match_rows, pair_strings
from knowfuse.alignment.optimal_transport import optimal_transport
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.printed import with_common_mark
from knowfuse.alignment.vocabulary_map import nearest_strings
from knowfuse.surface import Surface
from knowfuse.types import AlignedSource, SourceTrace, TokenizedDocument, TopK

TEXT = "def wrap (text, width=70): Reformat the single paragraph in text."
WIDTH, STRENGTH = 5, 3.0


def edits(a: str, b: str) -> int:
    table = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (x != y))
    return table[-1][-1]


def strings(its: Surface) -> list[str | None]:
    printed = with_common_mark(its)
    if its.eos_id is not None:
        printed[its.eos_id] = "an end of text, unlike any text that there is"
    return printed


def best(topk: TopK, row: int, printed: list[str | None]) -> dict[int, float]:
    slots = zip(topk.ids[row].tolist(), np.exp(topk.log_probs[row].astype(np.float64)).tolist(), strict=True)
    said = [(i, p) for i, p in slots if p > 0 and printed[i] is not None]
    return dict(sorted(said, key=lambda slot: -slot[1])[:WIDTH])


def sinkhorn(cost: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The published iteration, without its bounds on small numbers."""
    plan = np.exp(-STRENGTH * cost)
    plan /= plan.sum()
    for _ in range(1000):
        sums = plan.sum(1)
        plan *= (rows / sums)[:, None]
        plan *= columns / plan.sum(0)
        if np.abs(sums - rows).max() < 1e-5:
            break
    return plan


def slow_row(trace: SourceTrace, own: TopK, row: int, t: int, theirs: list, ours: list) -> dict[int, float]:
    source, target = best(trace.topk, row, theirs), best(own, t, ours)
    cost = np.array([[min(edits(theirs[i], ours[j]), 20) for j in target] for i in source], dtype=np.float64)
    p, q = np.array([*source.values()]), np.array([*target.values()])
    plan = sinkhorn(cost, p / p.sum(), q / q.sum())
    said: dict[int, float] = {}
    for part in plan:
        to = [*target][int(part.argmax())]
        said[to] = said.get(to, 0.0) + float(part.max() * p.sum())
    return said


def with_own(its: Surface, seed: int, k: int = 8) -> TokenizedDocument:
    """The document in a target's tokens, and what the target said of it."""
    return replace(its.tokenize(TEXT), own=random_trace(its, TEXT, k, seed=seed, peak=4.0).topk)


@pytest.mark.parametrize(("source", "target"), [("neox", "llama"), ("unigram", "neox"), ("llama", "wordpiece")])
def test_rows_are_those_of_the_published_iteration(source: str, target: str) -> None:
    """float64 plans, float32 logarithms of what is moved: 1e-5, and what Sinkhorn's tolerance leaves of another start."""
    theirs, ours = surface(source), surface(target)
    trace, tokens = random_trace(theirs, TEXT, 8, seed=1, peak=4.0), with_own(ours, 2)
    pair = TokenizerPair(theirs, ours)
    aligned = optimal_transport(pair, width=WIDTH, strength=STRENGTH)(trace, tokens, TEXT.encode())
    rows = match_rows(trace, tokens, pair_strings(pair), nearest_strings(theirs, ours))
    assert aligned.is_aligned.tolist() == (rows >= 0).tolist()
    assert aligned.is_aligned.sum() > 5
    for t in np.flatnonzero(aligned.is_aligned).tolist():
        assert tokens.own is not None
        want = slow_row(trace, tokens.own, int(rows[t]), t, strings(theirs), strings(ours))
        got = distribution(aligned, t)
        assert set(got) == set(want)
        for i, p in want.items():
            assert got[i] == pytest.approx(p, rel=1e-3, abs=1e-5)
    np.testing.assert_allclose(total_mass(aligned)[aligned.is_aligned], 1.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["neox", "llama", "unigram"])
def test_the_target_itself_comes_out_as_it_went_in(family: str) -> None:
    """Where source and target are one LLM, each token is its own partner: its `width` best, the rest in the tail."""
    its = surface(family)
    trace = random_trace(its, TEXT, 8, peak=4.0)
    tokens = replace(its.tokenize(TEXT), own=trace.topk)
    aligned = optimal_transport(TokenizerPair(its, its))(trace, tokens, TEXT.encode())
    printed = with_common_mark(its)
    for t in np.flatnonzero(aligned.is_aligned).tolist():
        slots = zip(trace.topk.ids[t].tolist(), trace.topk.log_probs[t].tolist(), strict=True)
        want = {i: float(np.exp(p)) for i, p in slots if printed[i] is not None or i == its.eos_id}
        assert distribution(aligned, t) == pytest.approx(want, rel=2e-5)


def moved(source: dict[str, float], target: dict[str, float]) -> AlignedSource:
    """A row of these tokens of one tokenizer, moved onto those."""
    its = surface("neox")
    text = "text text"

    def row(said: dict[str, float], trace: SourceTrace) -> SourceTrace:
        ids = [its.token_strings.index(token) for token in said]
        topk = TopK(
            np.tile(ids, (len(trace.ends), 1)),
            np.tile(np.log([*said.values()]), (len(trace.ends), 1)).astype(np.float32),
        )
        return replace(trace, topk=topk)

    trace = random_trace(its, text, 1)
    tokens = replace(its.tokenize(text), own=row(target, trace).topk)
    return optimal_transport(TokenizerPair(its, its))(row(source, trace), tokens, text.encode())


def test_a_token_that_the_target_does_not_expect_goes_to_the_one_spelled_most_like_it() -> None:
    """`i` goes to `in`, one edit away; `e` to itself as far as there is room, and what of it is moved elsewhere is dropped."""
    names = surface("neox").token_strings
    said = distribution(moved({"e": 0.5, "i": 0.3}, {"e": 0.4, "in": 0.4}), 0)
    assert {names[i]: round(p, 4) for i, p in said.items()} == {"e": 0.4, "in": 0.3}


def test_what_is_missing_is_said() -> None:
    its = surface("neox")
    trace = random_trace(its, TEXT, 4)
    with pytest.raises(ValueError, match=r"needs what the target LLM itself said of a document"):
        optimal_transport(TokenizerPair(its, its))(trace, its.tokenize(TEXT), TEXT.encode())
    with pytest.raises(ValueError, match=r"width=0 and strength=30\.0: a width is at least 1"):
        optimal_transport(TokenizerPair(its, its), width=0)
