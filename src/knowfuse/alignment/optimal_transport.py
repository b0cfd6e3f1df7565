"""What if the source's likely tokens were moved onto the target LLM's own likely ones, at the least cost of spelling? PTA-LLM.

Source: Zeng et al., Probabilistic Token Alignment, arXiv 2509.17276, and the code published with it: rows as MinED matches them; of
each the ten most probable tokens of both, scaled to sum to 1, are the margins of an optimal transport whose cost is the edit
distance of two tokens, solved by Sinkhorn's iteration with a strength of 30; each source token then goes to the one target token
that most of it is moved to, with as much as is moved there.

The margin on the other side is what the target LLM itself said before training, the trace of a source that is the target, as
the paper has it. All of a row moved would be just that margin again: what is moved elsewhere than to the first choice is dropped.

Differs: nothing is scaled up, a row keeps the source's mass and what is dropped or not among the ten is tail; space marks are
letters, so that ` the` is not `the`, and a source of the target's own tokenizer comes out as it went in; a token has its own
probability where the published code shifts them once two tokens map to one; costs beyond 20 are 20, and after 1,000 rounds of
Sinkhorn a row is taken as it is, its sum over the target's tokens right. The paper's weights of logits are training's here.
"""

from dataclasses import dataclass
from functools import partial
from typing import no_type_check

import numpy as np
from jaxtyping import Float64, Int

from knowfuse.alignment.duplicates import merge_duplicates
from knowfuse.alignment.edit_distance import EncodedStrings, distance, encode
from knowfuse.alignment.matched_rows import PairedStrings, match_rows, numbered, pair_strings
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.printed import with_common_mark
from knowfuse.alignment.spent import spent_on_target_tokens
from knowfuse.alignment.vocabulary_map import kept_nearest_strings
from knowfuse.compiled import compiled, compiled_part
from knowfuse.surface import Surface
from knowfuse.types import EMPTY, AlignedSource, Aligner, SourceTrace, TokenizedDocument, TopK

FAR = 20  # edits: e^-600 of a pair at strength 30
TOLERANCE = 1e-5  # of the sums over a source token, as published
MOST_ROUNDS = 1000
EOS = chr(0x10FFFF) * FAR  # what stands for an EOS: like the other's, and like no text


@dataclass
class _Spelled:
    """The tokens of both vocabularies by number of their strings; -1 for those that stand for no text."""

    source: Int[np.ndarray, " V"]
    target: Int[np.ndarray, " W"]
    strings: EncodedStrings


def optimal_transport(pair: TokenizerPair, *, width: int = 10, strength: float = 30.0) -> Aligner:
    """The aligner for a pair of tokenizers; it takes target documents that hold the target's own words.

    `width` most probable tokens of each side take part, `strength` is that of Sinkhorn's regularisation: costs weigh by it.
    ValueError for a width below 1 and a strength that is not above 0.
    """
    if width < 1 or not strength > 0:
        raise ValueError(
            f"alignment options width={width} and strength={strength}: a width is at least 1, a strength above 0"
        )
    printed = [_with_eos(surface) for surface in (pair.source, pair.target)]
    source, target, strings = numbered(*printed)
    empty = strings.index("") if "" in strings else -1
    source, target = (np.where(ids == empty, -1, ids) for ids in (source, target))
    spelled = _Spelled(source, target, encode(strings))
    options = {"id_map": kept_nearest_strings(pair), "width": width, "strength": float(strength)}
    return partial(align_transport, tokens=pair_strings(pair), spelled=spelled, **options)


def _with_eos(surface: Surface) -> list[str]:
    printed = [token or "" for token in with_common_mark(surface)]
    if surface.eos_id is not None:
        printed[surface.eos_id] = EOS
    return printed


def align_transport(
    trace: SourceTrace,
    target: TokenizedDocument,
    data: bytes,
    *,
    tokens: PairedStrings,
    spelled: _Spelled,
    id_map: Int[np.ndarray, " V"],
    width: int,
    strength: float,
) -> AlignedSource:
    """One source's word on the rows that MinED matches, on the target LLM's `width` most probable tokens of each."""
    if target.own is None:
        raise ValueError(
            "alignment 'optimal_transport' needs what the target LLM itself said of a document, and nobody read it"
        )
    rows = match_rows(trace, target, tokens, id_map)
    theirs, their_mass = _best(trace.topk, spelled.source, width)
    ours, our_mass = _best(target.own, spelled.target, width)
    moved = _move_all(
        rows,
        spelled.source[theirs],
        their_mass,
        spelled.target[ours],
        our_mass,
        (spelled.strings.codes, spelled.strings.offsets, spelled.strings.alphabet_size),
        strength,
    )
    topk, tail = merge_duplicates(ours, moved)
    nll, source_tokens = spent_on_target_tokens(trace, target)
    return AlignedSource(topk, tail, nll, source_tokens, rows >= 0)


def _best(
    topk: TopK[np.ndarray], numbers: Int[np.ndarray, " V"], width: int
) -> tuple[Int[np.ndarray, "T w"], Float64[np.ndarray, "T w"]]:
    """The most probable tokens of each row that stand for text, and their probabilities, 0 in a slot without one."""
    is_text = (topk.log_probs > EMPTY) & (numbers[np.where(topk.log_probs > EMPTY, topk.ids, 0)] >= 0)
    mass = np.where(is_text, np.exp(topk.log_probs, dtype=np.float64), 0.0)
    order = np.argsort(-mass, axis=-1, kind="stable")[:, :width]
    mass = np.take_along_axis(mass, order, -1)
    return np.where(mass > 0.0, np.take_along_axis(topk.ids, order, -1), 0), mass


@compiled
@no_type_check
def _move_all(rows, theirs, their_mass, ours, our_mass, strings, strength):
    """What of the source's mass each of the target's tokens gets, [T, w]; `rows` are the source's, -1 for none."""
    codes, offsets, alphabet_size = strings
    moved = np.zeros(ours.shape)
    positions = np.zeros(alphabet_size, dtype=np.uint64)
    for t in range(len(rows)):
        if rows[t] < 0:
            continue
        p, q = their_mass[rows[t]], our_mass[t]
        n, m = np.sum(p > 0.0), np.sum(q > 0.0)  # the filled slots come first
        if n == 0 or m == 0:
            continue
        cost = np.empty((n, m))
        for i in range(n):
            one = codes[offsets[theirs[rows[t], i]] : offsets[theirs[rows[t], i] + 1]]
            for j in range(m):
                other = codes[offsets[ours[t, j]] : offsets[ours[t, j] + 1]]
                cost[i, j] = min(distance(one, other, positions), FAR)
        mass = p[:n].sum()
        plan = _plan(cost, p[:n] / mass, q[:m] / q[:m].sum(), strength)
        for i in range(n):
            j = np.argmax(plan[i])
            moved[t, j] += mass * plan[i, j]
    return moved


@compiled_part
@no_type_check
def _plan(cost, p, q, strength):
    """Sinkhorn's plan: rows and columns are scaled to their sums in turn until the rows keep theirs."""
    n, m = cost.shape
    plan = np.empty((n, m))
    for i in range(n):
        least = cost[i].min()  # a row's factor changes nothing, and keeps the row from vanishing
        for j in range(m):
            plan[i, j] = np.exp(-strength * (cost[i, j] - least))
    sums = np.empty(m)
    for _ in range(MOST_ROUNDS):
        error = 0.0
        sums[:] = 0.0
        for i in range(n):
            total = 0.0
            for j in range(m):
                total += plan[i, j]
            error = max(error, abs(total - p[i]))
            factor = p[i] / total
            for j in range(m):
                plan[i, j] *= factor
                sums[j] += plan[i, j]
        for j in range(m):
            factor = q[j] / max(sums[j], 1e-300)
            for i in range(n):
                plan[i, j] *= factor
        if error < TOLERANCE:
            break
    return plan
