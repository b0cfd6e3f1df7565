"""With which target token does each source token go on, from each of its bytes?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int16, Int32, Int64, UInt8

from knowfuse.alignment.pair import Arrays, TokenizerPair
from knowfuse.surface import Surface

NO_BYTE = 256


class FirstTokens(NamedTuple):
    """Every source token as bytes, and the first target token of what remains of it after each of its bytes.

    The bytes of source token i are `pieces[starts[i] : starts[i + 1]]`; `inside[starts[i] + k]` speaks of those from
    byte k on, inside a document, `at_start` of the same where they begin a document, and `whole[i]` is `inside` at
    byte 0. Each is twice the target id, and 1 more where that token takes all of the bytes; -1: none begins them.
    """

    starts: Int32[np.ndarray, " boundaries"]
    pieces: UInt8[np.ndarray, " bytes"]
    inside: Int32[np.ndarray, " bytes"]
    at_start: Int32[np.ndarray, " bytes"]
    whole: Int32[np.ndarray, " V"]
    first: Int16[np.ndarray, " V"]  # the first byte; NO_BYTE of a token without one


def first_tokens(pair: TokenizerPair) -> FirstTokens:
    """The map of a pair of tokenizers, found again where it was made before."""
    made = pair.kept("first-tokens-2", lambda: _make(pair))
    starts, pieces = made["starts"], made["pieces"]
    first = np.where(starts[1:] > starts[:-1], np.append(pieces, 0)[starts[:-1]], NO_BYTE)
    return FirstTokens(**made, first=first.astype(np.int16))


def _make(pair: TokenizerPair) -> Arrays:
    spelled = [piece or b"" for piece in pair.source.token_bytes]
    suffixes = [piece[k:] for piece in spelled for k in range(len(piece))]
    starts = np.concatenate([[0], np.cumsum([len(piece) for piece in spelled])])
    inside = _codes(pair.target.first_tokens(suffixes, at_start=False), suffixes, pair.target)
    at_start = inside
    if pair.target.lead:
        at_start = _codes(pair.target.first_tokens(suffixes, at_start=True), suffixes, pair.target)
    has_bytes = starts[1:] > starts[:-1]
    return {
        "starts": starts.astype(np.int32),
        "pieces": np.array(bytearray(b"".join(spelled)), dtype=np.uint8),
        "inside": inside,
        "at_start": at_start,
        "whole": np.where(has_bytes, np.append(inside, -1)[starts[:-1]], -1).astype(np.int32),
    }


def _codes(
    first: Int64[np.ndarray, " bytes"], suffixes: Sequence[bytes], target: Surface
) -> Int32[np.ndarray, " bytes"]:
    return np.where(first >= 0, 2 * first + _takes_all(first, suffixes, target), -1).astype(np.int32)


def _takes_all(
    first: Int64[np.ndarray, " bytes"], suffixes: Sequence[bytes], target: Surface
) -> Bool[np.ndarray, " bytes"]:
    """Whether the token is the whole suffix, perhaps with the space that it carries before a word."""
    spelled = (target.token_bytes[i] if i >= 0 else None for i in first.tolist())
    return np.array([token in (rest, b" " + rest) for token, rest in zip(spelled, suffixes, strict=True)], dtype=bool)
