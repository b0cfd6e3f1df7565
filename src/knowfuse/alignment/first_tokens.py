"""With which target token does each source token go on, from each of its bytes?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

from knowfuse.alignment.pair import Arrays, TokenizerPair
from knowfuse.surface import Surface


@dataclass
class FirstTokens:
    """Every source token as bytes, and the first target token of what remains of it after each of its bytes.

    The bytes of source token i are `pieces[starts[i] : starts[i + 1]]`; `inside[starts[i] + k]` is the first target
    token of those from byte k on, inside a document; `at_start` the same where they begin a document; -1: none begins
    them. `whole_inside` and `whole_at_start` say that this first token takes all of them.
    """

    starts: Int[np.ndarray, " boundaries"]
    pieces: UInt8[np.ndarray, " bytes"]
    inside: Int[np.ndarray, " bytes"]
    at_start: Int[np.ndarray, " bytes"]
    whole_inside: Bool[np.ndarray, " bytes"]
    whole_at_start: Bool[np.ndarray, " bytes"]


def first_tokens(pair: TokenizerPair) -> FirstTokens:
    """The map of a pair of tokenizers, found again where it was made before."""
    return FirstTokens(**pair.kept("first-tokens-1", lambda: _make(pair)))


def _make(pair: TokenizerPair) -> Arrays:
    spelled = [piece or b"" for piece in pair.source.token_bytes]
    suffixes = [piece[k:] for piece in spelled for k in range(len(piece))]
    starts = np.concatenate([[0], np.cumsum([len(piece) for piece in spelled])]).astype(np.int64)
    inside = pair.target.first_tokens(suffixes, at_start=False)
    at_start = pair.target.first_tokens(suffixes, at_start=True) if pair.target.prefix else inside
    return {
        "starts": starts,
        "pieces": np.frombuffer(b"".join(spelled), dtype=np.uint8),
        "inside": inside,
        "at_start": at_start,
        "whole_inside": _takes_all(inside, suffixes, pair.target),
        "whole_at_start": _takes_all(at_start, suffixes, pair.target),
    }


def _takes_all(
    first: Int[np.ndarray, " bytes"], suffixes: Sequence[bytes], target: Surface
) -> Bool[np.ndarray, " bytes"]:
    """Whether the token is the whole suffix, perhaps with the space that it carries before a word."""
    spelled = (target.token_bytes[i] if i >= 0 else None for i in first.tolist())
    return np.array([token in (rest, b" " + rest) for token, rest in zip(spelled, suffixes, strict=True)], dtype=bool)
