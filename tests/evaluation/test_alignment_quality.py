"""The three numbers of an alignment against a count row by row in Python floats."""

import math

import numpy as np
import pytest
from alignments_for_tests import METHODS as ALL
from tokenizers_for_tests import random_trace, surface

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.exact_match import exact_match
from knowfuse.alignment.hybrid import hybrid, remainder_of
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.rank_matched import rank_matched
from knowfuse.evaluation import SeenDocument, alignment_quality, with_own_tokenizer
from knowfuse.text.document import Document
from knowfuse.types import EMPTY, MASS_CLASSES, SourceTrace, TopK

TEXTS = ["def wrap(text, width=70):\n    return width", "Reformat the single paragraph.", "é 🙂 text"]
HAVE_THE_TRUE_TOKEN = {"byte_exact", "chunk_likelihood"}
METHODS = {"byte_exact": byte_exact, "exact_match": exact_match, "min_edit_distance": min_edit_distance}


def seen(source: str, target: str, peak: float = 4.0) -> list[SeenDocument]:
    return [
        SeenDocument(
            random_trace(surface(source), text, 10, n, peak=peak), surface(target).tokenize(text), text.encode()
        )
        for n, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("source", "target"), [("neox", "llama"), ("unigram", "neox"), ("gemma", "gemma")])
def test_the_numbers_against_a_count_row_by_row(method: str, source: str, target: str) -> None:
    align, documents = METHODS[method](TokenizerPair(surface(source), surface(target))), seen(source, target)
    quality = alignment_quality(align, documents, surface(target).usable)
    paid = spent = 0.0
    num_bytes = rows = aligned_rows = faithful = 0
    for document in documents:
        aligned = align(document.trace, document.target, document.data)
        gold = document.trace.input_ids[1:].tolist()
        one = TopK(np.array([*gold, 0])[:, None], np.zeros((len(gold) + 1, 1), dtype=np.float32))
        sure = SourceTrace(document.trace.input_ids, document.trace.ends, one, np.zeros(len(gold) + 1, np.float32))
        certain = align(sure, document.target, document.data)
        for t, label in enumerate(document.target.input_ids[1:].tolist()):
            rows += 1
            if certain.is_aligned[t]:
                slots = zip(certain.topk.log_probs[t].tolist(), certain.topk.ids[t].tolist(), strict=True)
                best = max(slots, key=lambda slot: slot[0])
                faithful += best[0] > EMPTY and best[1] == label
            if not aligned.is_aligned[t]:
                continue
            aligned_rows += 1
            slots = zip(aligned.topk.ids[t].tolist(), aligned.topk.log_probs[t].tolist(), strict=True)
            filled = {i: math.exp(p) for i, p in slots if p > EMPTY}
            share = float(aligned.tail[t]) / (surface(target).vocabulary_size - len(filled))
            paid -= math.log(filled.get(label, share))
            paid += 0.0 if aligned.given is None else float(aligned.given[t])
            spent += float(aligned.nll[t])
            num_bytes += int(document.target.ends[t + 1] - document.target.ends[t])
    assert quality.coverage == aligned_rows / rows
    assert quality.top1_fidelity == faithful / rows
    assert quality.loss_bits_per_byte == pytest.approx((paid - spent) / math.log(2) / num_bytes, rel=1e-6)


def test_an_alignment_that_loses_nothing() -> None:
    """One tokenizer for both: no loss, every row, every top-1; all mass exact or never kept."""
    align, documents = byte_exact(TokenizerPair(surface("neox"), surface("neox"))), seen("neox", "neox")
    quality = alignment_quality(align, documents, surface("neox").usable)
    assert quality.loss_bits_per_byte == pytest.approx(0.0, abs=1e-6)
    assert (quality.coverage, quality.top1_fidelity) == (1.0, 1.0)
    assert quality.budget is not None
    assert quality.budget["exact"] + quality.budget["tail"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("family", ["llama", "neox"])  # with a space before every text, and without
def test_with_the_sources_own_tokenizer_a_method_loses_what_it_did_not_keep(method: str, family: str) -> None:
    """All tokens kept: 0, but for ranks, which no tokenizer tells. The 10 best kept: 0 where the method takes the true token
    from the trace besides, and what the tail's share charges beyond its true price where it does not.
    """
    its = surface(family)
    pair = TokenizerPair(its, its, [Document(text, "code", "fusion") for text in TEXTS])
    for top_k, claims in ((0, ALL.keys() - {"rank_matched"}), (10, HAVE_THE_TRUE_TOKEN)):
        traces = [random_trace(its, text, top_k, n, peak=4.0) for n, text in enumerate(TEXTS)]
        documents = [SeenDocument(d, its.tokenize(t), t.encode()) for d, t in zip(traces, TEXTS, strict=True)]
        quality = with_own_tokenizer(ALL[method], pair, documents)
        assert quality.identity_bits_per_byte == quality.loss_bits_per_byte
        if method in claims:
            assert quality.loss_bits_per_byte == pytest.approx(0.0, abs=1e-5)  # float32 sums of a few hundred slots
            # A space that a tokenizer puts before a text has no bytes to tell a chunk by.
            assert quality.coverage == 1.0 or method == "chunk_likelihood"
        else:
            assert abs(quality.loss_bits_per_byte) > 0.01  # ranks may gain: they go by the counts of the text itself
        if method in claims and top_k == 10:
            assert quality.top1_fidelity == quality.coverage


def test_byte_exact_is_faithful_between_any_two_families() -> None:
    """And its masses sum to 1; the paper's methods have none."""
    for source, target in (("llama", "neox"), ("neox", "unigram"), ("unigram", "gemma")):
        pair, documents = TokenizerPair(surface(source), surface(target)), seen(source, target, peak=8.0)
        quality = alignment_quality(byte_exact(pair), documents, surface(target).usable)
        assert quality.coverage == 1.0
        assert quality.top1_fidelity == 1.0
        assert quality.budget is not None
        assert list(quality.budget) == list(MASS_CLASSES)
        assert sum(quality.budget.values()) == pytest.approx(1.0, abs=1e-6)
        other = alignment_quality(min_edit_distance(pair), documents, surface(target).usable)
        assert other.budget is None
        assert other.top1_fidelity < 1.0
        assert other.loss_bits_per_byte > abs(quality.loss_bits_per_byte)


def test_ranks_are_judged_by_how_often_a_token_occurs() -> None:
    """A certain source names the most frequent target token at every row it serves."""
    documents = seen("neox", "llama")
    tokens = [i for d in documents for i in d.target.input_ids[1:].tolist()]
    most = max(sorted(set(tokens)), key=tokens.count)
    align = rank_matched(TokenizerPair(surface("neox"), surface("llama")))
    quality = alignment_quality(align, documents, surface("llama").usable)
    served = 0
    for d in documents:
        boundaries = {int(b) for b in d.trace.ends[:-1]}
        served += sum(
            int(d.target.ends[t]) in boundaries and label == most for t, label in enumerate(d.target.input_ids[1:])
        )
    assert quality.top1_fidelity == pytest.approx(served / len(tokens))
    assert quality.loss_bits_per_byte > 1.0


def test_what_has_no_string_in_common_is_judged_by_how_often_it_occurs() -> None:
    """By `hybrid`, slot by slot: shared tokens are themselves, rank k is the k-th most frequent of those no source has."""
    documents, pair = seen("neox", "llama"), TokenizerPair(surface("neox"), surface("llama"))
    align, left = hybrid(pair), remainder_of(pair).tolist()
    tokens = [i for d in documents for i in d.target.input_ids[1:].tolist() if i in left]
    frequent = dict(enumerate(sorted(sorted(set(tokens)), key=lambda i: -tokens.count(i))))
    paid = spent = num_bytes = by_rank = 0.0
    for document in documents:
        aligned = align(document.trace, document.target, document.data)
        for t, label in enumerate(document.target.input_ids[1:].tolist()):
            if not aligned.is_aligned[t]:
                continue
            slots = zip(aligned.topk.ids[t].tolist(), aligned.topk.log_probs[t].tolist(), strict=True)
            filled = [(i, p) for i, p in slots if p > EMPTY]
            share = float(aligned.tail[t]) / (surface("llama").usable - len(filled))
            named = {frequent.get(left.index(i), -1) if i in left else i: p for i, p in filled}
            by_rank += label in named and label in left
            paid -= named.get(label, math.log(share))
            paid += 0.0 if aligned.given is None else float(aligned.given[t])
            spent += float(aligned.nll[t])
            num_bytes += int(document.target.ends[t + 1] - document.target.ends[t])
    quality = alignment_quality(align, documents, surface("llama").usable)
    assert by_rank > 0
    assert quality.loss_bits_per_byte == pytest.approx((paid - spent) / math.log(2) / num_bytes, rel=1e-6)
