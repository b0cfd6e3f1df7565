"""Which of many strings is the nearest to each?

All pairs are too many to measure: most are passed over by what their lengths and their letters say. The answer is that
of measuring all.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Int64

from knowfuse.alignment.edit_distance import (
    ONE,
    WORD,
    EncodedStrings,
    clear_positions,
    distance,
    mark_positions,
    marked_distance,
)
from knowfuse.compiled import compiled, compiled_part

TWICE = 48  # the commonest characters, which have two bits of a signature: there is one, there are two
WORDS = 2  # of 64 bits, which is what `_lower_bounds` reads
NOWHERE = np.int64(2**62)


def nearest_choices(
    strings: EncodedStrings, queries: Int64[np.ndarray, " Q"], choices: Int64[np.ndarray, " N"]
) -> Int64[np.ndarray, " Q"]:
    """For each query the place in `choices` of the string at the least Levenshtein distance; ties: the first place.

    Both are indices of `strings`; there is at least one choice.
    """
    lengths = strings.lengths[choices]
    places = np.lexsort((np.arange(len(choices)), lengths))
    starts = np.searchsorted(lengths[places], np.arange(lengths.max() + 2))
    classes = _classes(strings, choices)
    sorted_choices = _taken(strings, choices[places])
    return _nearest(
        strings.codes,
        strings.offsets,
        queries,
        sorted_choices.codes,
        sorted_choices.offsets,
        places,
        starts,
        _signatures(strings.codes, strings.offsets, queries, classes),
        _signatures(strings.codes, strings.offsets, choices[places], classes),
        strings.alphabet_size,
    )


def _taken(strings: EncodedStrings, which: Int64[np.ndarray, " N"]) -> EncodedStrings:
    """These strings alone, one behind the other in this order."""
    lengths = strings.lengths[which]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(strings.offsets[which] - offsets[:-1], lengths)
    return EncodedStrings(strings.codes[places], offsets, strings.alphabet_size)


def _classes(strings: EncodedStrings, choices: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " A"]:
    """The class of each character of the alphabet: the commonest have one of their own, the others share the rest."""
    used = np.zeros(len(strings.codes) + 1, dtype=np.int64)
    np.add.at(used, strings.offsets[choices], 1)
    np.add.at(used, strings.offsets[choices + 1], -1)
    counts = np.bincount(strings.codes, weights=np.cumsum(used[:-1]), minlength=strings.alphabet_size)
    rank = np.empty(strings.alphabet_size, dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(strings.alphabet_size)
    shared = WORDS * 64 - 2 * TWICE
    return np.where(rank < TWICE, rank, TWICE + (rank - TWICE) % shared)


@compiled
@no_type_check
def _signatures(codes, offsets, which, classes):
    """Which classes of characters a string has, and which of the commonest it has twice: uint64 [WORDS, N].

    One insertion sets one bit at most, one deletion clears one at most, and one change does both.
    """
    signatures = np.zeros((WORDS, len(which)), dtype=np.uint64)
    for n in range(len(which)):
        for i in range(offsets[which[n]], offsets[which[n] + 1]):
            bit = classes[codes[i]]
            if bit < TWICE:
                has_one = (signatures[bit // 64, n] >> np.uint64(bit % 64)) & ONE
                bit = bit if has_one == 0 else TWICE + bit
            else:
                bit += TWICE
            signatures[bit // 64, n] |= ONE << np.uint64(bit % 64)
    return signatures


@compiled
@no_type_check
def _nearest(
    codes,
    offsets,
    queries,
    choice_codes,
    choice_offsets,
    places,
    starts,
    query_signatures,
    choice_signatures,
    alphabet_size,
):
    """The place of the nearest choice; the choices are sorted by length, those of length n from `starts[n]` on."""
    nearest = np.empty(len(queries), dtype=np.int64)
    positions = np.zeros(alphabet_size, dtype=np.uint64)
    bounds = np.empty(len(places), dtype=np.uint8)
    longest = len(starts) - 2
    lows, highs = choice_signatures[0], choice_signatures[1]
    for q in range(len(queries)):
        query = codes[offsets[queries[q]] : offsets[queries[q] + 1]]
        if 0 < len(query) <= WORD:
            mark_positions(query, positions)
        best, place = NOWHERE, NOWHERE
        for step in range(2 * max(len(query), longest - len(query)) + 1):
            difference = (step + 1) // 2
            length = len(query) - difference if step % 2 else len(query) + difference
            if difference > best:
                break
            if length < 0 or length > longest or starts[length] == starts[length + 1]:
                continue
            some = slice(starts[length], starts[length + 1])
            texts = choice_codes[choice_offsets[some.start] : choice_offsets[some.stop]].reshape(
                some.stop - some.start, length
            )
            least = _lower_bounds(query_signatures[0, q], query_signatures[1, q], lows[some], highs[some], bounds)
            if least + 2 <= best:  # the likeliest first, so that they rule out others
                best, place = _better(query, positions, texts, places[some], bounds, least, best, place)
            if least <= best:
                best, place = _better(query, positions, texts, places[some], bounds, best, best, place)
        if 0 < len(query) <= WORD:
            clear_positions(query, positions)
        nearest[q] = place
    return nearest


@compiled_part
@no_type_check
def _better(query, positions, texts, places, bounds, limit, best, place):
    """The least distance and its first place, after the texts [N, L] whose bound is within the limit."""
    for c in range(len(texts)):
        if bounds[c] > limit or bounds[c] > best or (bounds[c] == best and places[c] > place):
            continue
        if 0 < len(query) <= WORD:
            edits = marked_distance(positions, len(query), texts[c])
        else:
            edits = distance(query, texts[c], positions)
        if edits < best or (edits == best and places[c] < place):
            best, place = edits, places[c]
    return best, place


@compiled_part
@no_type_check
def _lower_bounds(low, high, lows, highs, bounds):
    """No fewer edits than `bounds[c]` lead from one signature to each of the others; the least of them."""
    least = np.uint8(255)
    for c in range(len(lows)):
        gone = _bits(low & ~lows[c]) + _bits(high & ~highs[c])
        come = _bits(lows[c] & ~low) + _bits(highs[c] & ~high)
        bounds[c] = max(gone, come)
    for c in range(len(lows)):
        least = min(least, bounds[c])
    return least


@compiled_part
@no_type_check
def _bits(word):
    """How many bits are set; the compiler knows this for the machine's own count."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)
