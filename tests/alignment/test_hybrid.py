"""Ids by string and ranks in the remainder against a slow reading in Python floats, and what becomes of both at the loss."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments_for_tests import documents, trace_store
from tokenizers_for_tests import LOSSLESS, random_trace, surface, toy_surface

from knowfuse.alignment.hybrid import hybrid, remainder_of, remainder_to_ids, resolution
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.printed import with_common_mark
from knowfuse.alignment.rank_matched import ranks_to_ids
from knowfuse.fusion.avg_ce import avg_ce
from knowfuse.fusion.min_ce import min_ce
from knowfuse.fusion.static import static
from knowfuse.training.blocks import PackedBlocks, SourceReader, collate
from knowfuse.training.module import Fusion
from knowfuse.types import EMPTY, AlignedSources, FusedTarget, FusionBatch, SourceTrace, TokenizedDocument, TopK

TEXT = "def wrap(text, width=70):\n    return width  # é 🙂"
PAIRS = [(s, t, (True, True)) for s in LOSSLESS for t in LOSSLESS if s != t]
PAIRS += [("neox", "llama", (True, False)), ("llama", "neox", (False, True))]  # who was told that the document ends
RULES = {
    "min_ce": partial(min_ce, granularity="token"),
    "avg_ce": partial(avg_ce, granularity="token"),
    "static": partial(static, weights={"neox": 0.7, "unigram": 0.3}, source_names=["neox", "unigram"]),
}


def plain_word(
    topk: TopK[np.ndarray], u: int, pair: TokenizerPair, printed: list[list[str | None]], num_ranks: int
) -> tuple[dict[int, float], dict[int, float]]:
    """What source row u says: the probability of target ids by string, and of ranks, slot by slot."""
    theirs, ours = printed
    by_id: dict[int, float] = {}
    left: list[float] = []
    for i, log_prob in zip(topk.ids[u].tolist(), topk.log_probs[u].tolist(), strict=True):
        if i == pair.source.eos_id and pair.target.eos_id is not None:
            by_id[pair.target.eos_id] = by_id.get(pair.target.eos_id, 0.0) + math.exp(log_prob)
        elif theirs[i] is not None and theirs[i] in ours:
            ours_id = ours.index(theirs[i])
            by_id[ours_id] = by_id.get(ours_id, 0.0) + math.exp(log_prob)
        elif theirs[i] is not None:
            left.append(math.exp(log_prob))
    return by_id, dict(enumerate(sorted(left, reverse=True)[:num_ranks]))


@pytest.mark.parametrize(("source", "target", "complete"), PAIRS)
def test_shared_strings_keep_their_id_and_the_others_their_rank(
    source: str, target: str, complete: tuple[bool, bool]
) -> None:
    trace = random_trace(surface(source), TEXT, 40, is_complete=complete[0])
    order = np.random.default_rng(0).permutation(40)  # a trace need not be sorted
    trace = replace(trace, topk=TopK(trace.topk.ids[:, order], trace.topk.log_probs[:, order]))
    tokens, pair = surface(target).tokenize(TEXT, complete[1]), TokenizerPair(surface(source), surface(target))
    aligned = hybrid(pair)(trace, tokens, TEXT.encode())
    remainder, printed = remainder_of(pair).tolist(), [with_common_mark(its) for its in (pair.source, pair.target)]
    assert aligned.is_by_rank
    for t, end in enumerate(tokens.ends[:-1]):
        theirs = [u for u in range(len(trace.ends) - 1) if trace.ends[u] == end]
        after = sum(int(e == end) for e in tokens.ends[t + 1 : -1])
        assert aligned.is_aligned[t] == (len(theirs) > after)
        if not aligned.is_aligned[t]:
            continue
        by_id, by_rank = plain_word(trace.topk, theirs[-1 - after], pair, printed, len(remainder))
        want = by_id | {remainder[k]: p for k, p in by_rank.items()}
        assert len(want) == len(by_id) + len(by_rank)
        slots = zip(aligned.topk.ids[t].tolist(), aligned.topk.log_probs[t].tolist(), strict=True)
        filled = [(i, math.exp(p)) for i, p in slots if p > EMPTY]
        assert len(filled) == len(want)
        assert dict(filled) == pytest.approx(want, rel=1e-6)
        assert float(aligned.tail[t]) == pytest.approx(1.0 - math.fsum(want.values()), abs=1e-6)
    assert not aligned.is_aligned[-1]


@pytest.mark.parametrize("family", LOSSLESS)
def test_with_one_tokenizer_no_rank_is_left(family: str) -> None:
    """Every row of the text, each token as the source said it, a space before the text that has no bytes among them."""
    its, text = surface(family), " é" + TEXT
    trace, pair = random_trace(its, text, 0), TokenizerPair(its, its)
    aligned = hybrid(pair)(trace, its.tokenize(text), text.encode())
    assert len(remainder_of(pair)) == 0
    assert aligned.is_aligned[:-1].all()
    printed = with_common_mark(its)
    for t in range(len(trace.ends) - 1):
        slots = zip(aligned.topk.ids[t].tolist(), aligned.topk.log_probs[t].tolist(), strict=True)
        said = zip(trace.topk.ids[t].tolist(), trace.topk.log_probs[t].tolist(), strict=True)
        want = {i: p for i, p in said if printed[i] is not None or i == its.eos_id}
        assert {i: p for i, p in slots if p > EMPTY} == pytest.approx(want, rel=1e-6, abs=1e-6)


def test_no_source_of_the_run_has_a_string_of_the_remainder() -> None:
    pair = TokenizerPair(surface("neox"), surface("llama"))
    alone, beside = remainder_of(pair), remainder_of(replace(pair, others=[surface("unigram")]))
    theirs, ours = set(with_common_mark(surface("unigram"))), with_common_mark(surface("llama"))
    assert beside.tolist() == [i for i in alone.tolist() if ours[i] not in theirs]
    assert 0 < len(beside) < len(alone)


def test_a_document_of_bos_alone_is_not_aligned() -> None:
    trace, tokens = random_trace(surface("neox"), "", 5, is_complete=False), surface("llama").tokenize("")
    aligned = hybrid(TokenizerPair(surface("neox"), surface("llama")))(trace, tokens, b"")
    assert not aligned.is_aligned.any()


def test_what_the_remainder_is_too_small_for_is_tail() -> None:
    """Of a, b, c, d, the target has b, and one token that the source lacks."""
    source, target = toy_surface(["a", "b", "c", "d"], []), toy_surface(["b", "x"], [])
    log_probs = np.log([[0.2, 0.1, 0.4, 0.3]] * 2).astype(np.float32)
    nobody = np.zeros(2, dtype=np.float32)
    trace = SourceTrace(np.array([1, 4]), np.array([1, 1]), TopK(np.array([[0, 1, 2, 3]] * 2), log_probs), nobody)
    aligned = hybrid(TokenizerPair(source, target))(trace, TokenizedDocument(np.array([0, 2]), trace.ends), b"b")
    filled = aligned.topk.log_probs[0] > EMPTY
    got = dict(
        zip(aligned.topk.ids[0][filled].tolist(), np.exp(aligned.topk.log_probs[0][filled]).tolist(), strict=True)
    )
    assert got == pytest.approx({0: 0.1, 1: 0.4}, rel=1e-6)
    assert float(aligned.tail[0]) == pytest.approx(0.5, abs=1e-6)


def batch_of(tmp_path: Path, others: bool = True) -> FusionBatch:
    """Two sources on two blocks of a Llama-2-like target's documents."""
    texts, target = documents(8), surface("llama")
    sources = [
        SourceReader(
            trace_store(tmp_path / mine, mine, texts, peak=0.0),
            hybrid(TokenizerPair(surface(mine), target, others=[surface(other)] if others else [])),
        )
        for mine, other in (("neox", "unigram"), ("unigram", "neox"))
    ]
    blocks = PackedBlocks(texts, target, 96, sources)
    return collate([blocks[0], blocks[1]])


def plain_resolved(
    sources: AlignedSources, weights: torch.Tensor, order: list[int], b: int, t: int
) -> dict[int, float]:
    """Row t: each source's ranks get their ids first, then the words are mixed, in Python floats."""
    assert sources.remainder is not None
    remainder, mixed = sources.remainder.tolist(), dict[int, float]()
    for s in range(weights.shape[1]):
        if not sources.is_aligned[b, s, t]:
            continue
        for i, p in zip(sources.topk.ids[b, s, t].tolist(), sources.topk.log_probs[b, s, t].tolist(), strict=True):
            if p > EMPTY:
                its = order[remainder.index(i)] if i in remainder else i
                mixed[its] = mixed.get(its, 0.0) + float(weights[b, s, t]) * math.exp(p)
    return {i: p for i, p in mixed.items() if p > 0.0}


@pytest.mark.parametrize("rule", RULES)
def test_ranks_fused_and_then_named_are_ranks_named_and_then_fused(tmp_path: Path, rule: str) -> None:
    """By every rule, for two sources: ids stay unique and are the target's own, and no mass is lost."""
    batch = batch_of(tmp_path)
    sources = batch.sources
    assert sources is not None
    assert sources.remainder is not None
    fuse: Fusion = RULES[rule]
    fused = fuse(sources, batch.document_ids, batch.label_bytes)
    logits = torch.randn(*batch.labels.shape, surface("llama").usable, generator=torch.Generator().manual_seed(0))
    resolve = resolution(sources)
    assert resolve is not None
    got = resolve(fused, logits.requires_grad_())
    assert not got.topk.ids.requires_grad
    ranked = 0
    for b, t in torch.nonzero(fused.has_target)[::7].tolist():
        remainder = sources.remainder.tolist()
        order = sorted(remainder, key=lambda i: -float(logits[b, t, i].detach()))
        slots = zip(got.topk.ids[b, t].tolist(), got.topk.log_probs[b, t].tolist(), strict=True)
        filled = [(i, math.exp(p)) for i, p in slots if p > EMPTY]
        assert len(dict(filled)) == len(filled)
        assert dict(filled) == pytest.approx(plain_resolved(sources, fused.weights, order, b, t), rel=1e-5)
        assert math.fsum(p for _, p in filled) + float(got.tail[b, t]) == pytest.approx(1.0, abs=1e-5)
        ranked += sum(i in remainder for i, _ in filled)
    assert ranked > 20


def test_sources_that_rank_different_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the sources rank different tokens of the target \(\[\d+, \d+\] of them\)"):
        batch_of(tmp_path, others=False)


def test_ids_are_resolved_by_what_the_sources_are() -> None:
    rows = torch.zeros(1, 1, 1)
    words = AlignedSources(
        TopK(torch.zeros(1, 1, 1, 1, dtype=torch.int64), rows[..., None]), rows, rows, rows, rows == 0
    )
    assert resolution(words) is None
    assert resolution(replace(words, is_by_rank=True)) is ranks_to_ids
    fused = FusedTarget(TopK(torch.tensor([[[2, 3]]]), torch.tensor([[[0.5, 0.5]]]).log()), rows[0], rows, rows[0] == 0)
    logits = torch.tensor([[[9.0, 1.0, 2.0, 3.0, 4.0]]])
    named = remainder_to_ids(fused, logits, remainder=torch.tensor([1, 2, 4]))
    assert named.topk.ids.tolist() == [[[2, 3]]]  # 2 is rank 1: of 4, 2 and 1 the second; 3 is a token
    none = remainder_to_ids(fused, logits, remainder=torch.zeros(0, dtype=torch.int64))
    assert none.topk.ids.tolist() == [[[2, 3]]]
    everything = remainder_to_ids(fused, logits, remainder=torch.arange(5))
    assert torch.equal(everything.topk.ids, ranks_to_ids(fused, logits).topk.ids)
