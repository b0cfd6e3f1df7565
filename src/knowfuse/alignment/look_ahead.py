"""Where the source's token may be the beginning of a target token: what its next row says of how that goes on."""

from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float64, Int64

from knowfuse.alignment.duplicates import slot_of
from knowfuse.alignment.longer import NONE, NOWHERE, UNKNOWN, UNUSABLE, may_go_on, walk
from knowfuse.alignment.own_cuts import own_cut
from knowfuse.alignment.said import AMBIGUOUS, CHAINED, EXACT, PREFIX, UNMAPPED, candidates
from knowfuse.compiled import ZERO, compiled_part

LEAST = 1e-4  # the smallest probability that takes a slot of its own
ASKED = 1e-3  # the smallest of a candidate about which the target's tokenizer is asked


class Seen(NamedTuple):
    """The candidates of a source row, and what the target's token at a node becomes after each; `of`: the row and the node."""

    ids: Int64[np.ndarray, " K_1"]
    weights: Float64[np.ndarray, " K_1"]
    became: Int64[np.ndarray, " K_1"]
    of: Int64[np.ndarray, "2"]


@compiled_part
@no_type_check
def new_seen(k):
    """Room for the candidates of a row of K tokens; nothing is seen yet."""
    return Seen(np.empty(k + 1, np.int64), np.empty(k + 1), np.empty(k + 1, np.int64), np.full(2, -1))


@compiled_part
@no_type_check
def keep_what_stays(read_id, row, gold, tokens, longer, known, seen, alive, weights, num_alive):
    """Keeps those candidates after which the target still reads the token that it has read, and the gold one.

    How many, and what share of the mass of all. What `look_ahead` has `seen` of this row's candidates is not looked up again.
    """
    node = np.int64(longer.node[read_id])
    is_seen = seen.of[0] == row and seen.of[1] == node
    if node == 0 or not may_go_on(longer, node):
        return num_alive, 1.0
    count, total, staying = 0, 0.0, 0.0
    for c in range(num_alive):
        candidate, p = alive[c], weights[c]
        total += p
        became = read_id
        if candidate != gold:
            became = seen.became[c] if is_seen else becomes(longer, known, tokens, candidate, node, p)
        if became in (read_id, NONE):
            staying += p
            alive[count], weights[count] = candidate, p
            count += 1
    return count, staying / total if total > 0.0 else 1.0


@compiled_part
@no_type_check
def becomes(longer, known, tokens, token, node, p):
    """What the target's token at a node becomes, if a source token of probability p follows: what it is (NONE), another, UNKNOWN.

    UNKNOWN: only what follows the source token decides.
    """
    if tokens.starts[token + 1] == tokens.starts[token]:
        return NONE
    last, longest = walk(longer, tokens, token, ZERO, node)
    if last != NOWHERE and longer.token[last] == NONE:
        return UNKNOWN
    if longest == NONE or p < ASKED:
        return longest
    return own_cut(known, node * (len(tokens.starts) - 1) + token, longest)


@compiled_part
@no_type_check
def ends_with(longer, tokens, token, node, became):
    """The share of the places where what the target's token at a node became, and takes all of a source token, ends with it."""
    if became < 0:
        return 1.0
    at, length = longer.node[became], tokens.starts[token + 1] - tokens.starts[token]
    is_whole = longer.depth[at] == longer.depth[node] + length
    return longer.ends[token] if is_whole and may_go_on(longer, at) else 1.0


@compiled_part
@no_type_check
def look_ahead(said, read, t, row, residual, mass, tokens, longer, known, seen, table, count, to):
    """Gives the gold candidate's mass to the target tokens that the rows after it tell of. How many slots the row has then."""
    truth, next_end = read.ids[t + 1], read.ends[t + 1]
    node, stays = walk(longer, tokens, said.ids[row + 1], residual, np.int64(longer.begins[int(t == 0)]))
    u = row + 1  # the source row after what was walked
    kind, to_truth = EXACT if said.ends[u] == next_end else CHAINED, 0.0
    while u < len(said.ends) - 1 and (
        said.ends[u] < next_end or (said.ends[u] == next_end and may_go_on(longer, node))
    ):
        is_end = said.ends[u] == next_end
        if is_end:
            stays = truth
        follows, total, staying = said.ids[u + 1], 0.0, 0.0
        for c in range(candidates(said, u, seen.ids, seen.weights)):
            candidate, p = seen.ids[c], seen.weights[c]
            total += p
            if candidate == follows:
                staying += p * is_end
                continue
            went = NONE if node == NOWHERE else becomes(longer, known, tokens, candidate, node, p)
            seen.became[c] = went
            ends = p * ends_with(longer, tokens, candidate, node, went)
            to.budget[t, AMBIGUOUS] += mass * (p - ends)
            p, went = ends, stays if went == NONE else went
            if went == truth:
                staying += p * is_end
                to_truth += mass * p
                continue
            if went < 0 or mass * p < LEAST or count >= len(to.ids[t]) - 1:
                to.budget[t, UNMAPPED if went == UNUSABLE and mass * p >= LEAST else AMBIGUOUS] += mass * p
                continue
            slot = slot_of(table, to.ids[t], count, went)
            count += slot == count
            to.probs[t, slot] += mass * p
            to.budget[t, PREFIX] += mass * p
        seen.of[0], seen.of[1] = u, node
        tail = max(1.0 - total, 0.0) * mass
        of_tail = tail * min(staying / total, 1.0) if is_end and total > 0.0 else 0.0
        to.budget[t, AMBIGUOUS] += max(tail - of_tail, 0.0)
        mass = mass * said.gold_probs[u] + of_tail
        if is_end:
            break
        gold_skip = tokens.starts[follows + 1] - tokens.starts[follows] - (said.ends[u + 1] - said.ends[u])
        if node != NOWHERE:
            node, met = walk(longer, tokens, follows, gold_skip, node)
            stays = met if met != NONE else stays
        u += 1
    slot = slot_of(table, to.ids[t], count, truth)
    to.probs[t, slot] += mass + to_truth
    to.budget[t, kind] += mass + to_truth
    return count + (slot == count)
