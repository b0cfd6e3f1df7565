"""byte_exact between tokenizers of real LLMs, of different families, in both directions."""

import math
from functools import cache

import numpy as np
import pytest
from alignments_for_tests import pair_of
from real_tokenizers import real_surface
from test_byte_exact import paid_on_labels, paid_too_much, slow_rows
from tokenizers_for_tests import random_trace

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.evaluation import SeenDocument, alignment_quality
from knowfuse.surface.hard_texts import HARD_TEXTS
from knowfuse.types import Aligner

PLAIN = "the text, and 12 more words"  # what a lower-casing WordPiece spells too
CODE = 'def wrap(text, width=70):\n\t"""Wrap — 🙂 é."""\r\n    return  w.wrap(text)[1234:]\n'
NEPALI = "नेपाल एक सुन्दर देश हो।"
PAIRS = [
    ("mistral1", "llama3", [PLAIN, CODE]),
    ("qwen", "mistral3", [PLAIN, CODE]),
    ("deepseek", "mistral1", [PLAIN, CODE]),
    ("nepali_unigram", "mistral3", [NEPALI]),
    ("nepali_wordpiece", "mistral1", [PLAIN]),
]
ALL_WAYS = [*PAIRS, *((target, source, texts) for source, target, texts in PAIRS)]
QUICK = [
    ("mistral1", "llama3"),
    ("llama3", "mistral1"),
    ("mistral3", "nepali_unigram"),
    ("mistral1", "nepali_wordpiece"),
]
# The map of a pair, of 30,000 to 130,000 tokens, takes seconds to make.
BOTH_WAYS = [pytest.param(*its, marks=[pytest.mark.long] * (its[:2] not in QUICK)) for its in ALL_WAYS]
DEEPSEEK = pytest.param("deepseek", "mistral1", marks=pytest.mark.long)
QWEN = pytest.param("qwen", "mistral3", marks=pytest.mark.long)


@cache
def aligner(source: str, target: str, look_ahead: bool = False) -> Aligner:
    return byte_exact(pair_of(real_surface(source), real_surface(target)), look_ahead=look_ahead)


def seen(source: str, target: str, text: str, peak: float) -> SeenDocument:
    trace = random_trace(real_surface(source), text, 10, peak=peak)
    return SeenDocument(trace, real_surface(target).tokenize(text), text.encode())


@pytest.mark.parametrize(("source", "target", "texts"), BOTH_WAYS)
def test_rows_are_those_of_the_slow_rules(source: str, target: str, texts: list[str]) -> None:
    """Probabilities by id and by mass class, in Python floats; float32 log-probabilities in and out."""
    for text in texts:
        document = seen(source, target, text, peak=6.0)
        aligned = aligner(source, target)(document.trace, document.target, document.data)
        assert aligned.budget is not None
        rows = slow_rows(document.trace, document.target, document.data, real_surface(source), real_surface(target))
        for t, row in enumerate(rows):
            assert aligned.is_aligned[t] == (row is not None)
            if row is None:
                continue
            want, budget = row
            slots = zip(aligned.topk.ids[t].tolist(), np.exp(aligned.topk.log_probs[t]).tolist(), strict=True)
            got = {i: p for i, p in slots if p > 1e-9}
            assert got == pytest.approx({i: p for i, p in want.items() if p > 1e-9}, rel=1e-5, abs=1e-8)
            np.testing.assert_allclose(aligned.budget[t], list(budget.values()), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(aligned.budget[aligned.is_aligned].sum(-1), 1.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("source", "target", "texts"), BOTH_WAYS)
def test_a_certain_source_stays_certain(source: str, target: str, texts: list[str]) -> None:
    """Of the true next target token, at every row; and a source that is nearly so pays nearly the same."""
    documents = [seen(source, target, text, peak=25.0) for text in texts]
    quality = alignment_quality(aligner(source, target), documents, real_surface(target).usable)
    assert quality.coverage == 1.0
    assert quality.top1_fidelity == 1.0
    assert abs(quality.loss_bits_per_byte) < 1e-3


@pytest.mark.parametrize(("source", "target"), [("mistral1", "llama3"), QWEN, DEEPSEEK])
def test_hard_unicode_costs_no_more_than_the_source_paid(source: str, target: str) -> None:
    """Characters cut inside, joined emoji, right to left: no stretch between two boundaries of both."""
    for name in ("emoji with joiners", "CJK", "right to left", "Devanagari and Thai", "composed accents"):
        for one, other in ((source, target), (target, source)):
            document = seen(one, other, HARD_TEXTS[name], peak=6.0)
            its = (document.trace, document.target, document.data)
            assert paid_too_much(aligner(one, other), *its) < 1e-4, (name, one, other)
            ahead = aligner(one, other, look_ahead=True)(*its)
            whole = paid_on_labels(ahead, document.target).sum() - document.trace.nll.sum()
            assert whole < 1e-3, (
                name,
                one,
                other,
            )  # what one row gives to longer tokens, the next has more: of a whole text


@pytest.mark.parametrize(("source", "target"), [("mistral1", "llama3"), DEEPSEEK])
def test_rows_are_those_of_byte_prefix_marginalization_but_for_the_targets_own_cut(source: str, target: str) -> None:
    """A plain reading of BPM's partition (arXiv 2607.22334): each candidate goes to the longest target token that begins it.

    On rows that begin at a boundary of both. Equal, or explained: the longest token is not the one that the target's own
    tokenizer makes first of those bytes, or the true next token was seen.
    """
    theirs, ours = real_surface(source), real_surface(target)
    longest = {piece: i for i, piece in reversed(list(enumerate(ours.token_bytes))) if piece and i < ours.usable}
    equal = explained = 0
    for text in (HARD_TEXTS["code"] + PLAIN, CODE, HARD_TEXTS["composed accents"] + HARD_TEXTS["CJK"]):
        document = seen(source, target, text, peak=6.0)
        trace, tokens = document.trace, document.target
        aligned = aligner(source, target)(trace, tokens, document.data)
        for t in np.flatnonzero(np.isin(tokens.ends[:-2], trace.ends) & (tokens.ends[:-2] > 0)).tolist():
            u = int(np.flatnonzero(trace.ends[:-1] <= tokens.ends[t])[-1])
            said = dict(zip(trace.topk.ids[u].tolist(), np.exp(trace.topk.log_probs[u], dtype=np.float64), strict=True))
            gold = int(trace.input_ids[u + 1])
            said = {gold: math.exp(-float(trace.nll[u])), **said}
            pieces = [theirs.token_bytes[i] or b"" for i in said]
            spans = [next((p[:n] for n in range(len(p), 0, -1) if p[:n] in longest), b"") for p in pieces]
            partition: dict[int, float] = {}
            for span, p in zip(spans, said.values(), strict=True):
                if span:
                    partition[longest[span]] = partition.get(longest[span], 0.0) + float(p)
            slots = zip(aligned.topk.ids[t].tolist(), np.exp(aligned.topk.log_probs[t]).tolist(), strict=True)
            got, label = {i: p for i, p in slots if p > 1e-9}, int(tokens.input_ids[t + 1])
            first = ours.first_tokens(pieces, at_start=False).tolist()
            if got == pytest.approx({i: p for i, p in partition.items() if p > 1e-9}, rel=1e-5, abs=1e-8):
                equal += 1
                continue
            # Explained: without the candidates that the target cuts otherwise, and the true next token, nothing differs.
            differs = {longest.get(s, -1) for s, f in zip(spans, first, strict=True) if longest.get(s, -1) != f}
            differs |= {f for s, f in zip(spans, first, strict=True) if longest.get(s, -1) != f} | {label}
            differs |= {int(ours.first_tokens([theirs.token_bytes[gold] or b""], at_start=False)[0])}
            others = [{i: p for i, p in its.items() if i not in differs and p > 1e-9} for its in (got, partition)]
            assert others[0] == pytest.approx(others[1], rel=1e-5, abs=1e-8), (t, got, partition)
            explained += 1
    assert min(equal, explained) > 5  # of random tokens, ten a row, most rows have one that the target cuts otherwise
