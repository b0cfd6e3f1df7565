"""Which source token matches which target token of a document, by their printed forms?

Source: FuseLLM, arXiv 2401.10491, section 3.2: dynamic programming (as in dynamic time warping) over the edit distance
of two sequences of tokens; the map is monotone.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Int64

from knowfuse.alignment.edit_distance import EncodedStrings, edit_distances
from knowfuse.compiled import compiled, compiled_part

DIAGONAL, UP, LEFT = range(3)  # ties of the backtrace prefer them in this order; UP is the previous source token
FAR = np.int32(2**30)  # more than any sum of distances


def matched_pairs(
    strings: EncodedStrings, source: Int64[np.ndarray, " U"], target: Int64[np.ndarray, " T"]
) -> Int64[np.ndarray, "P 2"]:
    """The pairs (source token, target token) on the cheapest monotone path through all tokens, from the last to the first.

    `source` and `target` say which of the strings (without space marks) each token is. A pair costs the edit distance
    of its strings; each pair of different strings is measured once.
    """
    if len(source) == 0 or len(target) == 0:
        return np.empty((0, 2), dtype=np.int64)
    rows, row_of = np.unique(source, return_inverse=True)
    columns, column_of = np.unique(target, return_inverse=True)
    return _path(_moves(edit_distances(strings, rows, columns), row_of, column_of))


def only_matches(pairs: Int64[np.ndarray, "P 2"], num_target: int) -> Int64[np.ndarray, " T"]:
    """The source token that each target token matches, where it matches one alone; -1 elsewhere.

    Several target tokens may match one source token.
    """
    matches = np.full(num_target, -1, dtype=np.int64)
    matches[pairs[:, 1]] = pairs[:, 0]
    matches[np.bincount(pairs[:, 1], minlength=num_target) != 1] = -1
    return matches


@compiled
@no_type_check
def _moves(distances, row_of, column_of):
    """The best way into each cell (u, t): the least of D[u-1, t-1], D[u-1, t] and D[u, t-1]; uint8 [U, T].

    D[u, t] is the distance of the two tokens plus that least. With the sums S of a row's distances, S[t] being those
    before t, it is S[t + 1] + min over k <= t of (min(D[u-1, k-1], D[u-1, k]) - S[k]): whole rows at a time, which the
    compiler takes in words of many cells, where cell by cell each would wait for the one before.
    """
    num_source, num_target = len(row_of), len(column_of)
    sums = _row_sums(distances, column_of)
    moves = np.empty((num_source, num_target), dtype=np.uint8)
    total = np.full(
        num_target + 1, FAR, dtype=np.int32
    )  # D of one row; column 0 is what is before the first target token
    scratch = np.empty((3, num_target), dtype=np.int32)
    total[0] = 0
    for u in range(num_source):
        _next_row(total, sums[row_of[u]], moves[u], scratch)
        total[0] = FAR
    return moves


@compiled_part
@no_type_check
def _next_row(total, sums, moves, scratch):
    """`total` from one row to the next, and the moves into the cells of that."""
    entered, least, spare = scratch[0], scratch[1], scratch[2]  # unpacked, their layout would be lost on the compiler
    for t in range(len(moves)):
        entered[t] = min(total[t], total[t + 1]) - sums[t]
        moves[t] = np.uint8(total[t + 1] < total[t])  # DIAGONAL or UP
    _running_minimum(entered, least, spare)
    for t in range(len(moves)):
        total[t + 1] = least[t] + sums[t + 1]
        moves[t] = np.uint8(LEFT) if least[t] < entered[t] else moves[t]


@compiled_part
@no_type_check
def _row_sums(distances, column_of):
    """The sums of the distances of each different source token to the first t target tokens; int32 [R, T + 1]."""
    sums = np.zeros((len(distances), len(column_of) + 1), dtype=np.int32)
    for r in range(len(distances)):
        total = 0
        for t in range(len(column_of)):
            total += distances[r, column_of[t]]
            sums[r, t + 1] = total
    return sums


@compiled_part
@no_type_check
def _running_minimum(values, least, spare):
    """least[t] becomes the least of values[0], ..., values[t]: of 2, 4, 8, 16 neighbours, then of all 16ths."""
    _with_earlier(values, spare, 1)
    _with_earlier(spare, least, 2)
    _with_earlier(least, spare, 4)
    _with_earlier(spare, least, 8)
    for t in range(len(least) - 16):
        least[t + 16] = min(least[t + 16], least[t])


@compiled_part
@no_type_check
def _with_earlier(values, out, lag):
    """out[t] is the lesser of values[t] and values[t - lag]."""
    for t in range(min(lag, len(values))):
        out[t] = values[t]
    later, later_out = values[lag:], out[lag:]
    for t in range(len(later)):
        later_out[t] = min(later[t], values[t])


@compiled
@no_type_check
def _path(moves):
    u, t = moves.shape[0] - 1, moves.shape[1] - 1
    pairs = np.empty((u + t + 1, 2), dtype=np.int64)
    pairs[0, 0], pairs[0, 1] = u, t
    count = 1
    while u > 0 or t > 0:
        move = moves[u, t]
        u -= move != LEFT
        t -= move != UP
        pairs[count, 0], pairs[count, 1] = u, t
        count += 1
    return pairs[:count].copy()
