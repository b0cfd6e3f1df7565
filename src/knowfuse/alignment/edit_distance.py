"""How many edits turn one printed token into another?

Compiled by numba and kept between processes. A string of up to 64 characters is one machine word.

Source: Myers, A fast bit-vector algorithm for approximate string matching (1999), in the form of Hyyrö (2003) for the
distance of two whole strings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Int32, Int64

from knowfuse.compiled import compiled, compiled_part

WORD = 64  # characters of the pattern that fit one machine word
ZERO, ONE, ALL = np.uint64(0), np.uint64(1), np.uint64(2**64 - 1)


@dataclass
class EncodedStrings:
    """Strings as numbers: string i is `codes[offsets[i] : offsets[i + 1]]`, each code less than `alphabet_size`."""

    codes: Int32[np.ndarray, " C"]
    offsets: Int64[np.ndarray, " N1"]  # one more than there are strings
    alphabet_size: int

    @property
    def lengths(self) -> Int64[np.ndarray, " N"]:
        return np.diff(self.offsets)


def encode(strings: Sequence[str]) -> EncodedStrings:
    """The strings in numbers; a character has the same number in all of them, the first by code point is 0."""
    text = np.frombuffer("".join(strings).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    alphabet, codes = np.unique(text, return_inverse=True)
    offsets = np.cumsum([0, *map(len, strings)], dtype=np.int64)
    return EncodedStrings(codes.astype(np.int32), offsets, max(len(alphabet), 1))


def edit_distances(
    strings: EncodedStrings, rows: Int64[np.ndarray, " R"], columns: Int64[np.ndarray, " C"]
) -> Int32[np.ndarray, "R C"]:
    """Levenshtein distances between the strings of these indices: every insertion, deletion and change costs 1."""
    order = np.argsort(-strings.lengths[columns], kind="stable")
    table = np.empty((len(rows), len(columns)), dtype=np.int32)
    table[:, order] = _distance_table(strings.codes, strings.offsets, rows, columns[order], strings.alphabet_size)
    return table


@compiled
@no_type_check
def _distance_table(codes, offsets, rows, columns, alphabet_size):
    """Distances [R, C]; the strings of the columns come by decreasing length."""
    table = np.empty((len(rows), len(columns)), dtype=np.int32)
    positions = np.zeros(alphabet_size, dtype=np.uint64)
    letters, active = _by_letter(codes, offsets, columns)
    scratch = np.empty((3, len(columns)), dtype=np.uint64)
    for r in range(len(rows)):
        pattern = codes[offsets[rows[r]] : offsets[rows[r] + 1]]
        if 0 < len(pattern) <= WORD:
            mark_positions(pattern, positions)
            _marked_distances(positions, len(pattern), letters, active, scratch, table[r])
            clear_positions(pattern, positions)
        else:
            for c in range(len(columns)):
                table[r, c] = distance(pattern, codes[offsets[columns[c]] : offsets[columns[c] + 1]], positions)
    return table


@compiled_part
@no_type_check
def _by_letter(codes, offsets, columns):
    """Letter i of every text that has so many, [L, C], and how many have: the first `active[i]`, for they are sorted."""
    longest = offsets[columns[0] + 1] - offsets[columns[0]] if len(columns) > 0 else 0
    letters, active = np.zeros((longest, len(columns)), dtype=np.uint32), np.zeros(longest, dtype=np.int64)
    for c in range(len(columns)):
        start = offsets[columns[c]]
        for i in range(offsets[columns[c] + 1] - start):
            letters[i, c] = codes[start + i]
            active[i] += 1
    return letters, active


@compiled_part
@no_type_check
def _marked_distances(positions, length, letters, active, scratch, edits):
    """`marked_distance` from all texts at once: a step of each, then the next, so that the compiler takes many a time."""
    last = np.uint64(length - 1)
    equal, plus, minus = scratch[0], scratch[1], scratch[2]
    plus[:], minus[:], edits[:] = ALL, ZERO, length
    for i in range(len(active)):
        letter = letters[i]
        for c in range(active[i]):
            equal[c] = positions[letter[c]]
        for c in range(active[i]):
            diagonal = (((equal[c] & plus[c]) + plus[c]) ^ plus[c]) | equal[c] | minus[c]
            right_plus = minus[c] | ~(diagonal | plus[c])
            right_minus = diagonal & plus[c]
            edits[c] += np.int32((right_plus >> last) & ONE) - np.int32((right_minus >> last) & ONE)
            right_plus = (right_plus << ONE) | ONE
            plus[c] = (right_minus << ONE) | ~(diagonal | right_plus)
            minus[c] = right_plus & diagonal


@compiled_part
@no_type_check
def distance(a, b, positions):
    """The distance of two code arrays; `positions` is all zeros, before and after."""
    if len(a) > len(b):
        a, b = b, a
    if len(a) == 0:
        return len(b)
    if len(a) > WORD:
        return plain_distance(a, b)
    mark_positions(a, positions)
    edits = marked_distance(positions, len(a), b)
    clear_positions(a, positions)
    return edits


@compiled_part
@no_type_check
def mark_positions(pattern, positions):
    """Bit i of `positions[c]` is set where character i of the pattern is c."""
    for i in range(len(pattern)):
        positions[pattern[i]] |= ONE << np.uint64(i)


@compiled_part
@no_type_check
def clear_positions(pattern, positions):
    """Undo what marking a pattern of characters did to the table of positions, so that it serves the next one."""
    for i in range(len(pattern)):
        positions[pattern[i]] = ZERO


@compiled_part
@no_type_check
def marked_distance(positions, length, text):
    """The distance of a text from the marked pattern of 1 to 64 characters; one step a character of the text.

    Bit i of `plus` (`minus`) says that the distance grows (falls) by 1 from row i of the usual matrix to row i + 1.
    """
    last = np.uint64(length - 1)
    plus, minus, edits = ALL, ZERO, length
    for i in range(len(text)):
        equal = positions[text[i]]
        diagonal = (((equal & plus) + plus) ^ plus) | equal | minus
        right_plus = minus | ~(diagonal | plus)
        right_minus = diagonal & plus
        edits += np.int64((right_plus >> last) & ONE) - np.int64((right_minus >> last) & ONE)
        right_plus = (right_plus << ONE) | ONE
        plus = (right_minus << ONE) | ~(diagonal | right_plus)
        minus = right_plus & diagonal
    return edits


@compiled_part
@no_type_check
def plain_distance(a, b):
    """The usual dynamic programming, one row at a time: for two strings longer than a word."""
    row = np.arange(len(b) + 1)
    for i in range(len(a)):
        diagonal, row[0] = row[0], i + 1
        for j in range(len(b)):
            changed = diagonal + (a[i] != b[j])
            diagonal = row[j + 1]
            row[j + 1] = min(changed, diagonal + 1, row[j] + 1)
    return row[len(b)]
