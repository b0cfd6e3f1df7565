"""Of some bytes that the target reads and a source token that follows: with which token does the target's own cut begin?

Not always with the longest: Qwen cuts `    return` into `   ` and ` return`. Only the tokenizer itself knows, and to ask it takes
as long as to align a whole row: once about each pair of bytes and source token, and only where the longest token takes some of both.
"""

from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Int32, Int64

from knowfuse.alignment.first_tokens import FirstTokens
from knowfuse.alignment.longer import NONE, Longer
from knowfuse.compiled import compiled, compiled_part
from knowfuse.surface import Surface

FREE = -1  # in place of a pair
ROOM = 1 << 14  # for pairs, at first: a power of two
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio


class Known(NamedTuple):
    """The pairs that were met, each at a place that its hash says, with the target token (NONE: the longest).

    The first `waiting[0]` of `to_ask` are those about which the tokenizer was not asked yet. A pair is the node of the bytes in `Longer`
    times the source's vocabulary size, and the source token.
    """

    pairs: Int64[np.ndarray, " room"]
    token: Int32[np.ndarray, " room"]
    to_ask: Int64[np.ndarray, " room_4"]
    waiting: Int64[np.ndarray, "1"]


class OwnCuts:
    """The target tokenizer's answers, as they come to be known; what is aligned does not depend on what was asked before."""

    def __init__(self, target: Surface, tokens: FirstTokens, longer: Longer) -> None:
        self.target, self.tokens, self.longer = target, tokens, longer
        self.known = _empty(ROOM)
        self._parents = np.repeat(np.arange(len(longer.byte)), np.diff(longer.children))  # of each node but the first
        self._num_known = 0

    def ask(self) -> bool:
        """Asks the tokenizer about the pairs that were met since it was last asked; whether there were any."""
        asked = self.known.to_ask[: self.known.waiting[0]]
        if not len(asked):
            return False
        nodes, followers = np.divmod(asked, len(self.tokens.starts) - 1)
        texts = [self._bytes_at(n) + self._bytes_of(i) for n, i in zip(nodes.tolist(), followers.tolist(), strict=True)]
        self.known.token[_places(self.known.pairs, asked)] = self.target.first_tokens(texts, at_start=False)
        self._num_known += len(asked)
        self.known.waiting[0] = 0
        if self._num_known > len(self.known.pairs) // 2:
            self.known = _roomier(self.known)
        return True

    def _bytes_at(self, node: int) -> bytes:
        read = bytearray()
        while node:
            read.append(self.longer.byte[node])
            node = self._parents[node - 1]
        return bytes(read[::-1])

    def _bytes_of(self, token: int) -> bytes:
        return self.tokens.pieces[self.tokens.starts[token] : self.tokens.starts[token + 1]].tobytes()


def _empty(room: int) -> Known:
    return Known(
        np.full(room, FREE), np.full(room, NONE, dtype=np.int32), np.empty(room // 4, dtype=np.int64), np.zeros(1, int)
    )


def _roomier(known: Known) -> Known:
    roomier, met = _empty(2 * len(known.pairs)), known.pairs != FREE
    roomier.token[_places(roomier.pairs, known.pairs[met])] = known.token[met]
    return roomier


@compiled
@no_type_check
def own_cut(known, pair, longest):
    """The target token of a pair, of which the longest is told; that one where the tokenizer is still to be asked."""
    at = _place(known.pairs, pair)
    if known.pairs[at] == FREE and known.waiting[0] < len(known.to_ask):
        known.pairs[at] = pair
        known.to_ask[known.waiting[0]] = pair
        known.waiting[0] += 1
    return longest if known.token[at] == NONE else known.token[at]


@compiled_part
@no_type_check
def _place(pairs, pair):
    """Where a pair is, or would be put."""
    mask = len(pairs) - 1
    at = int((np.uint64(pair) * MIX) >> np.uint64(32)) & mask
    while pairs[at] != FREE and pairs[at] != pair:
        at = (at + 1) & mask
    return at


@compiled
@no_type_check
def _places(pairs, wanted):
    """Where each is, and is put if it was not."""
    at = np.empty(len(wanted), np.int64)
    for n in range(len(wanted)):
        at[n] = _place(pairs, wanted[n])
        pairs[at[n]] = wanted[n]
    return at
