"""Which source token matches which target token of a document, by their printed forms?

Source: FuseLLM, arXiv 2401.10491, section 3.2: dynamic programming (as in dynamic time warping) over the edit distance
of two sequences of tokens; the map is monotone.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int, UInt8
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

DIAGONAL, UP, LEFT = range(3)  # ties of the backtrace prefer them in this order; UP is the previous source token


def one_to_one(source: Sequence[str], target: Sequence[str]) -> Int[np.ndarray, " T"]:
    """The source token that each target token matches, where each matches no other; -1 elsewhere.

    The strings carry no space marks.
    """
    matches = np.full(len(target), -1, dtype=np.int64)
    if not source or not target:
        return matches
    path = _path(_moves(_edit_distances(source, target)))
    u, t = path[:, 0], path[:, 1]
    alone = (np.bincount(u)[u] == 1) & (np.bincount(t)[t] == 1)
    matches[t[alone]] = u[alone]
    return matches


def _edit_distances(source: Sequence[str], target: Sequence[str]) -> Float32[np.ndarray, "U T"]:
    """Levenshtein distances of all pairs; each pair of different strings is measured once."""
    rows, columns = ({s: i for i, s in enumerate(dict.fromkeys(strings))} for strings in (source, target))
    table = process.cdist(list(rows), list(columns), scorer=Levenshtein.distance, dtype=np.float32, workers=1)
    return table[np.ix_([rows[s] for s in source], [columns[s] for s in target])]


def _moves(cost: Float32[np.ndarray, "U T"]) -> UInt8[np.ndarray, "D U"]:
    """The best way into each cell (i, j), at [i + j, i]: the least of D[i-1, j-1], D[i-1, j] and D[i, j-1].

    D[i, j] is `cost[i, j]` plus that least. Cells of one anti-diagonal do not depend on each other, so that each is
    one step of numpy; sums of small integers are exact in float32.
    """
    num_source, num_target = cost.shape
    i = np.arange(num_source)
    j = np.arange(num_source + num_target - 1)[:, None] - i
    skewed = np.where((j >= 0) & (j < num_target), cost[i, np.clip(j, 0, num_target - 1)], np.float32(np.inf))
    # Anti-diagonal d is row d + 2 of `total`, and source token i its column i + 1: outside of the matrix is infinite.
    total = np.full((len(skewed) + 2, num_source + 1), np.inf, dtype=np.float32)
    total[0, 0] = 0.0
    for d, costs in enumerate(skewed):
        best = np.minimum(total[d, :-1], total[d + 1, :-1])
        np.minimum(best, total[d + 1, 1:], out=best)
        np.add(best, costs, out=total[d + 2, 1:])
    diagonal, up, left = total[:-2, :-1], total[1:-1, :-1], total[1:-1, 1:]
    is_diagonal = (diagonal <= up) & (diagonal <= left)
    return np.where(is_diagonal, DIAGONAL, np.where(up <= left, UP, LEFT)).astype(np.uint8)


def _path(moves: UInt8[np.ndarray, "D U"]) -> Int[np.ndarray, "P 2"]:
    """The matched pairs (source token, target token), from the last to the first."""
    width = moves.shape[1]
    u, t = width - 1, len(moves) - width
    flat, path = moves.tobytes(), [(u, t)]
    while u or t:
        move = flat[(u + t) * width + u]
        u, t = u - (move != LEFT), t - (move != UP)
        path.append((u, t))
    return np.array(path, dtype=np.int64)
