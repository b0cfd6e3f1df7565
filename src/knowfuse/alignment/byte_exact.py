"""What would the source have said at this byte, in the target's tokens?

Alignment on bytes, after the byte-level view of token models (arXiv 2410.09303, 2412.03719, 2506.14123). Row t of
the target has consumed the bytes `[0, e)`; the last source boundary `b <= e` serves it. Let `r` be the bytes
`[b, e)`. The source row is conditioned on the candidates that start with `r` and that the target would have cut into the
tokens it has read since `b`: those that the row before gave to the last of these. Each candidate loses `r`, and what
remains of it goes to the first target token of those bytes. Where the true next target token spans several source
tokens, its probability is the product along the gold chain already in the trace. So the rows of a source token multiply to
at least what the source gave to it: along the true text nothing is lost.

Conditioned on the bytes alone, ` pieces`, which the target has as one token, would still weigh against the rest of ` p`,
`izz`, `as`. The less a target's tokens are like the source's, the more that costs: 0.09 bits per byte of Cyrillic cut inside
its letters, none now.

Byte-Prefix Marginalization (arXiv 2607.22334) is the same idea, online, found on its own. Differs: there what remains of a
candidate goes to the longest target token that is a prefix of it, here to the first token of the target's own cut, which for
3-16 % of real vocabularies is another (` TIM`: ` T`, not ` TI`).

**The choice.** What remains of a candidate may be shorter than the target token that the text would go on to form
(`th`, then `e`: the target says `the`). What follows is in the trace for the gold candidate alone, whose chain is
exact; every other candidate counts as if the text were cut after it. So a row differs from the source's own
distribution over the next target token, in total variation, by at most the mass of the candidates that end inside a
target token (some suffix of theirs is a proper prefix of one), plus what no kept candidate tells (`ambiguous`, `tail`).
To know more would take one more pass of the source for every candidate of every row.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Int
from numba import njit

from knowfuse.alignment.duplicates import log_of, new_table, slot_of
from knowfuse.alignment.first_tokens import FirstTokens, first_tokens
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.row_classes import Rows, align_some_rows, check_rows
from knowfuse.alignment.spent import ends_with_eos, spent_on_target_tokens
from knowfuse.types import EMPTY, MASS_CLASSES, AlignedSource, Aligner, SourceTrace, TokenizedDocument, TopK

EXACT, PREFIX, CHAINED, AMBIGUOUS, UNMAPPED, TAIL = range(len(MASS_CLASSES))
ENDS_HERE = -2  # in place of a first target token: the candidate is r, what would follow it is unknown


def byte_exact(pair: TokenizerPair, *, rows: Rows = "all", mask_whitespace: bool = False) -> Aligner:
    """The aligner for a pair of tokenizers: makes or finds the map from source tokens to first target tokens.

    `rows`: all teach, or those alone that begin where a source token does (`shared`), or whose token is one of the source's
    (`one_to_one`); `mask_whitespace`: none teaches white space. ValueError where an option does not exist.
    """
    check_rows(rows, mask_whitespace)
    if pair.source.fingerprint == pair.target.fingerprint:
        align = partial(own_words, usable=pair.target.usable)
    else:
        roles = _Roles(*(-1 if i is None else i for i in (pair.source.eos_id, pair.target.eos_id)))
        align = partial(align_bytes, tokens=first_tokens(pair), roles=roles)
    return partial(align_some_rows, align=align, rows=rows, mask_whitespace=mask_whitespace)


@dataclass(frozen=True)
class _Roles:
    """Special tokens map by role; -1 where a tokenizer has none."""

    source_eos: int
    target_eos: int


def align_bytes(
    trace: SourceTrace, target: TokenizedDocument, data: bytes, *, tokens: FirstTokens, roles: _Roles
) -> AlignedSource:
    """One source's word on every row of a target document; K' = K + 2 (the gold token, the chained one).

    Of drawn tokens (`SourceTrace.draws`) rows that are conditioned are not aligned: their mass would be a quotient of estimates.
    """
    ids, probs, budget, is_aligned = _align_rows(
        trace.input_ids,
        trace.ends,
        trace.topk.ids,
        np.exp(trace.topk.log_probs, dtype=np.float64),
        np.exp(-trace.nll, dtype=np.float64),
        np.concatenate([[0.0], np.cumsum(trace.nll[:-1], dtype=np.float64)]),
        ends_with_eos(trace.ends),
        target.input_ids,
        target.ends,
        ends_with_eos(target.ends),
        np.frombuffer(data, dtype=np.uint8),
        roles.source_eos,
        roles.target_eos,
        tokens.starts,
        tokens.pieces,
        tokens.inside,
        tokens.at_start,
        tokens.whole,
    )
    if trace.draws is not None:  # a quotient of drawn probabilities would be biased
        is_aligned &= ~_is_conditioned(trace, target, tokens.starts)
    nll, source_tokens = spent_on_target_tokens(trace, target)
    return AlignedSource(
        topk=TopK(ids, log_of(probs)),
        tail=budget[:, AMBIGUOUS:].sum(-1).astype(np.float32),
        nll=nll,
        source_tokens=source_tokens,
        is_aligned=is_aligned,
        budget=budget,
    )


def serving_rows(source_ends: Int[np.ndarray, " U"], target_ends: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """The source row that serves each target row: the last that predicts and ends at or before it; 0 where none does."""
    return np.maximum(np.searchsorted(source_ends[:-1], target_ends, side="right") - 1, 0)


def _is_conditioned(
    trace: SourceTrace, target: TokenizedDocument, starts: Int[np.ndarray, " boundaries"]
) -> Bool[np.ndarray, " T"]:
    """Whether a row goes on inside a source token, or after a space that the token has and the text has not."""
    rows = serving_rows(trace.ends, target.ends)
    following = np.minimum(rows + 1, len(trace.ends) - 1)
    lead = np.diff(starts)[trace.input_ids[following]] - (trace.ends[following] - trace.ends[rows])
    is_after_lone_space = (target.ends == 0) & (np.arange(len(target.ends)) > 0)
    return (target.ends - trace.ends[rows] + lead > 0) | is_after_lone_space


def own_words(trace: SourceTrace, target: TokenizedDocument, data: bytes, *, usable: int) -> AlignedSource:
    """What a source said, as it said it, bit for bit: the target has the source's own tokenizer. K' = K + 1 (gold).

    The mass of ids from `usable` on, which the target LLM has no row for, is unmapped.
    """
    assert np.array_equal(trace.input_ids, target.input_ids), "one tokenizer, two ways to cut a document"
    gold = np.append(trace.input_ids[1:], 0)
    is_kept = ((trace.topk.ids == gold[:, None]) & (trace.topk.log_probs > EMPTY)).any(-1)
    log_probs = np.concatenate([trace.topk.log_probs, np.where(is_kept, EMPTY, -trace.nll)[:, None]], -1)
    ids = np.where(log_probs > EMPTY, np.concatenate([trace.topk.ids, gold[:, None]], -1), 0)
    has_row, probs = ids < usable, np.exp(log_probs, dtype=np.float64)
    ids, log_probs = np.where(has_row, ids, 0), np.where(has_row, log_probs, EMPTY)
    budget = np.zeros((len(ids), len(MASS_CLASSES)))
    budget[:, EXACT] = np.where(has_row, probs, 0.0).sum(-1)
    budget[:, UNMAPPED] = np.where(has_row, 0.0, probs).sum(-1)
    budget[:, TAIL] = np.maximum(1.0 - probs.sum(-1), 0.0)
    nll, source_tokens = spent_on_target_tokens(trace, target)
    return AlignedSource(
        topk=TopK(ids, log_probs.astype(np.float32)),
        tail=budget[:, AMBIGUOUS:].sum(-1).astype(np.float32),
        nll=nll,
        source_tokens=source_tokens,
        is_aligned=np.arange(len(nll)) < len(nll) - 1,
        budget=budget,
    )


@njit(cache=True, nogil=True)
@no_type_check
def _align_rows(
    source_ids,  # int64 [U]
    source_ends,  # int64 [U]
    kept_ids,  # int64 [U, K]
    kept_probs,  # float64 [U, K]
    gold_probs,  # float64 [U], of the token after each row
    paid,  # float64 [U], nats up to and with each token
    source_has_eos,
    target_ids,  # int64 [T]
    target_ends,  # int64 [T]
    target_has_eos,
    data,  # uint8 [bytes]
    source_eos,
    target_eos,
    starts,
    pieces,
    inside,
    at_start,
    whole,
):
    """Ids [T, K + 2], float64 probabilities [T, K + 2], the budget [T, 6] and whether each row is aligned [T].

    From the last row to the first: the probability of a token that runs on into the next row's source token needs the
    divisor of that row.
    """
    num_rows, num_source, k = len(target_ids), len(source_ids), kept_ids.shape[1]
    ids = np.zeros((num_rows, k + 2), dtype=np.int64)
    probs = np.zeros((num_rows, k + 2))
    budget = np.zeros((num_rows, 6))
    is_aligned = np.zeros(num_rows, dtype=np.bool_)
    table = new_table(k + 2)
    row, boundary = num_source - 2, num_source - 1 - int(source_has_eos)
    next_divisor = 1.0
    for t in range(num_rows - 2, -1, -1):
        end, next_end = target_ends[t], target_ends[t + 1]
        predicts_eos = target_has_eos and t == num_rows - 2
        while row > 0 and source_ends[row] > end:
            row -= 1
        while boundary > 0 and source_ends[boundary] > next_end:
            boundary -= 1
        if row < 0 or (predicts_eos and not source_has_eos):
            next_divisor = 1.0
            continue
        gold, gold_end, begin = source_ids[row + 1], source_ends[row + 1], source_ends[row]
        # A source token may lead with a space that the text has not (the one put before a document; WordPiece after
        # punctuation). Its row said the token with that space: it is consumed there, a residual like any other.
        lead = starts[gold + 1] - starts[gold] - (gold_end - begin)
        residual = end - begin + lead
        label = target_ids[t + 1]
        gold_remains = starts[gold + 1] - starts[gold] - residual
        covers = gold_end >= next_end and not predicts_eos and gold_remains > 0
        codes = at_start if t == 0 else inside
        # Some targets begin a text with a lone space that it has not: the row after it goes on with what is cut so.
        is_conditioned = residual > 0 or (end == 0 and t > 0)
        first_row = t
        while first_row > 0 and target_ends[first_row - 1] >= begin:
            first_row -= 1
        table[:] = -1
        count, total, gold_slot, gold_class, gold_seen = 0, 0.0, -1, UNMAPPED, False
        for c in range(k + 1):
            if c < k:
                candidate, p = kept_ids[row, c], kept_probs[row, c]
                if p == 0.0:
                    continue
                gold_seen = gold_seen or candidate == gold
            else:
                candidate, p = gold, gold_probs[row]
                if gold_seen:
                    break
            code = -1
            if residual == 0 and t > 0 and not is_conditioned:
                code = whole[candidate]
            else:
                at, end_of_it = starts[candidate], starts[candidate + 1]
                if end_of_it < at + residual or not _starts_with(pieces, at, data, begin, lead, residual):
                    continue
                if is_conditioned and candidate != gold:
                    shift = at + lead - begin
                    if end_of_it == at or not _cut_so(inside, at_start, shift, target_ids, target_ends, first_row, t):
                        continue
                if end_of_it > at + residual:
                    code = codes[at + residual]
                elif residual > 0:
                    code = ENDS_HERE
            total += p
            first, kind = code >> 1, EXACT if code & 1 else PREFIX
            if candidate == source_eos and residual == 0 and target_eos >= 0:
                first, kind = target_eos, EXACT
            elif candidate == gold and covers:  # the true next target token was seen, not guessed
                first, kind = label, EXACT if gold_end == next_end else PREFIX
            elif code < 0:
                first, kind = -1, AMBIGUOUS if code == ENDS_HERE else UNMAPPED
            budget[t, kind] += p
            slot = -1
            if first >= 0:
                slot = slot_of(table, ids[t], count, first)
                count += slot == count
                probs[t, slot] += p
            if candidate == gold:
                gold_slot, gold_class = slot, kind
        divisor = total if is_conditioned else 1.0
        following, next_divisor = next_divisor, divisor
        if divisor <= 0.0:
            next_divisor = 0.0
            continue
        is_aligned[t] = True
        if not is_conditioned:
            budget[t, TAIL] = max(1.0 - total, 0.0)
        else:
            for slot in range(count):
                probs[t, slot] /= divisor
            for kind in range(TAIL):
                budget[t, kind] /= divisor
        if gold_end < next_end and not predicts_eos:
            owed = following if next_end > source_ends[boundary] else 1.0
            chained = math.exp(paid[row] - paid[boundary]) * owed / divisor
            # It is taken off the shorter piece that the gold token was mapped to.
            chained = min(chained, gold_probs[row] / divisor)
            budget[t, gold_class] = max(budget[t, gold_class] - chained, 0.0)
            if gold_slot >= 0:
                probs[t, gold_slot] = max(probs[t, gold_slot] - chained, 0.0)
            budget[t, CHAINED] = chained
            slot = slot_of(table, ids[t], count, label)
            count += slot == count
            probs[t, slot] += chained
    return ids, probs, budget, is_aligned


@njit(cache=True, nogil=True)
@no_type_check
def _starts_with(pieces, at, data, begin, lead, residual):
    """Whether the token whose bytes are at `at` starts with `lead` spaces and the text from `begin` on."""
    for n in range(residual):  # noqa: SIM110  (numba has no generators here)
        if pieces[at + n] != (32 if n < lead else data[begin + n - lead]):
            return False
    return True


@njit(cache=True, nogil=True)
@no_type_check
def _cut_so(inside, at_start, shift, target_ids, target_ends, first_row, t):
    """Whether the target cuts a candidate into the tokens that it has read since `first_row`: then row t may go on with it.

    `shift` leads from bytes of the document to those of the candidate in `inside`.
    """
    for j in range(first_row, t):
        if target_ends[j + 1] > target_ends[j] or j == 0:
            code = (at_start if j == 0 else inside)[shift + target_ends[j]]
            if code >> 1 != target_ids[j + 1]:
                return False
    return True
