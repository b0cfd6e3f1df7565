"""What does the target read where what a source said goes on: its own token, or a longer one that begins so?"""

from collections.abc import Sequence
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8

from knowfuse.alignment.first_tokens import NO_BYTE, FirstTokens
from knowfuse.alignment.pair import Arrays, TokenizerPair
from knowfuse.alignment.row_classes import serving_rows
from knowfuse.compiled import compiled, compiled_part
from knowfuse.text.documents import Documents
from knowfuse.types import TokenizedDocument

NONE, UNKNOWN, UNUSABLE = -1, -2, -3  # in place of a token
NOWHERE = -1  # in place of a node
COUNTED = 2000  # documents in which is counted, at most, spread over the training text


class Longer(NamedTuple):
    """The target's tokens as a trie of bytes, and how often it ends a token where a source token ends.

    Node 0 stands for no bytes; the nodes one byte longer than node n are those from `children[n]` to `children[n + 1]`, in the order
    of that byte, `byte`, and `depth[n]` is how many bytes it stands for; `token[n]` is the token that is those bytes (`NONE`: none is;
    `UNUSABLE`: the LLM has no row for it), and `node[i]` where token i is. A token begins at node `begins[0]`, the first of a text at
    `begins[1]`, behind what it carries.

    Of the places in `COUNTED` documents of the training text where the target has read all of a source token's bytes before `p` (`FirstTokens.pieces`)
    and its next token takes all the others, `stays[p]` is the share where that token ends there. Of those where a token that began before
    source token i takes all of it, `ends[i]` is the share where it ends with it.
    """

    children: Int32[np.ndarray, " nodes_1"]
    byte: UInt8[np.ndarray, " nodes"]
    depth: Int32[np.ndarray, " nodes"]
    token: Int32[np.ndarray, " nodes"]
    node: Int32[np.ndarray, " V"]
    begins: Int32[np.ndarray, "2"]
    stays: Float32[np.ndarray, " source_bytes"]
    ends: Float32[np.ndarray, " source_V"]


def longer(pair: TokenizerPair, tokens: FirstTokens) -> Longer:
    """The tables of a pair of tokenizers and its training text, found again where they were made before."""
    key = Documents.of(pair.documents).key
    return Longer(**pair.kept("longer-tokens-2", lambda: _make(pair, tokens), key))


def _make(pair: TokenizerPair, tokens: FirstTokens) -> Arrays:
    target = pair.target
    spelled = [piece or b"" for piece in target.token_bytes]
    alone = target.first_tokens(spelled[: target.usable], at_start=False)
    # Of two with the same bytes, the one that the tokenizer makes of them.
    made = np.array([i for i, b in enumerate(spelled) if b and (i >= len(alone) or alone[i] == i)], dtype=np.int64)
    children, byte, depth, at = _trie([*(spelled[i] for i in made), target.lead])
    token, node = np.full(len(byte), NONE, dtype=np.int32), np.zeros(target.vocabulary_size, dtype=np.int32)
    token[at[:-1]], node[made] = np.where(made < target.usable, made, UNUSABLE), at[:-1]
    begins = np.array([0, at[-1]], dtype=np.int32)
    trie = {"children": children, "byte": byte, "depth": depth, "token": token, "node": node, "begins": begins}
    return {**trie, **_counted(pair, tokens)}


def _trie(
    pieces: Sequence[bytes],
) -> tuple[
    Int32[np.ndarray, " nodes_1"], UInt8[np.ndarray, " nodes"], Int32[np.ndarray, " nodes"], Int64[np.ndarray, " N"]
]:
    """`children`, `byte` and `depth` of a trie, and the node of each piece.

    Depth by depth: the nodes of one are the pairs of a node of the depth before and a byte, in order.
    """
    data, lengths = np.frombuffer(b"".join(pieces), dtype=np.uint8), np.array([len(piece) for piece in pieces])
    starts, at = np.cumsum(lengths) - lengths, np.zeros(len(pieces), dtype=np.int64)
    parents, read, sizes, depth = [np.empty(0, np.int64)], [np.zeros(1, np.uint8)], [1], 0
    while len(rest := np.flatnonzero(lengths > depth)):
        pairs, which = np.unique(at[rest] * 256 + data[starts[rest] + depth], return_inverse=True)
        at[rest] = sum(sizes) + which
        parents.append(pairs // 256)
        read.append((pairs % 256).astype(np.uint8))
        sizes, depth = [*sizes, len(pairs)], depth + 1
    children = 1 + np.searchsorted(np.concatenate(parents), np.arange(sum(sizes) + 1))
    depths = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return children.astype(np.int32), np.concatenate(read), depths, at


def _counted(pair: TokenizerPair, tokens: FirstTokens) -> Arrays:
    """`stays` and `ends`, counted in the training text; where it says little, near those of all places."""
    stays, ends = np.zeros((2, int(tokens.starts[-1]))), np.zeros((2, len(tokens.starts) - 1))
    for source, target in pair.cut(pair.documents[:: max(1, -(-len(pair.documents) // COUNTED))]):
        if len(source.ends) > 1:
            for counts, (ends_there, places) in (
                (stays, _places(source, target, tokens)),
                (ends, _within(source, target)),
            ):
                np.add.at(counts, (ends_there.astype(int), places), 1)
    return {"stays": _shares(stays), "ends": _shares(ends)}


def _shares(counts: Float64[np.ndarray, "2 N"]) -> Float32[np.ndarray, " N"]:
    overall = counts[1].sum() / counts.sum() if counts.any() else 1.0
    return ((counts[1] + overall) / (counts.sum(0) + 1)).astype(np.float32)


def _places(
    source: TokenizedDocument, target: TokenizedDocument, tokens: FirstTokens
) -> tuple[Bool[np.ndarray, " places"], Int64[np.ndarray, " places"]]:
    """Each place of a text where the target's token takes all that remains of a source token, and whether it ends with it."""
    rows = serving_rows(source.ends, target.ends[:-1])
    gold, gold_ends, ends = source.input_ids[rows + 1], source.ends[rows + 1], target.ends[1:]
    remaining = gold_ends - target.ends[:-1]
    places = tokens.starts[gold + 1] - remaining
    counted = (remaining > 0) & (ends >= gold_ends) & (places >= tokens.starts[gold])
    return (ends == gold_ends)[counted], places[counted]


def _within(
    source: TokenizedDocument, target: TokenizedDocument
) -> tuple[Bool[np.ndarray, " places"], Int64[np.ndarray, " places"]]:
    """Each source token that a target token takes all of, which began before it, and whether that ends with it."""
    begins, ends = source.ends[:-1], source.ends[1:]
    at = np.searchsorted(target.ends, ends)  # the target token that takes its last byte
    is_within = (ends > begins) & (at > 0) & (target.ends[at - 1] < begins)
    return (target.ends[at] == ends)[is_within], source.input_ids[1:][is_within].astype(np.int64)


@compiled
@no_type_check
def walk(longer, tokens, token, skip, node):
    """From a node along the bytes of a source token, from byte `skip` on: the node there, and the longest token met on the way.

    NOWHERE: no target token begins so; NONE: no token was met.
    """
    met = NONE
    for at in range(tokens.starts[token] + skip, tokens.starts[token + 1]):
        below = _child(longer, node, tokens.pieces[at])
        if below == NOWHERE:
            return NOWHERE, met
        node = below
        if longer.token[node] != NONE:
            met = longer.token[node]
    return node, met


@compiled_part
@no_type_check
def walk_text(longer, data, begin, end, node):
    """From a node along the bytes `[begin, end)` of a text: the node there, or NOWHERE."""
    node = np.int64(node)
    for at in range(begin, end):
        node = np.int64(_child(longer, node, data[at]))
        if node == NOWHERE:
            break
    return node


@compiled_part
@no_type_check
def _child(longer, node, byte):
    """The node one byte further, or NOWHERE."""
    low, high = longer.children[node], longer.children[node + 1]
    end = high
    while low < high:
        middle = (low + high) // 2
        if longer.byte[middle] < byte:
            low = middle + 1
        else:
            high = middle
    return low if low != end and longer.byte[low] == byte else NOWHERE


@compiled_part
@no_type_check
def goes_on_with(longer, node):
    """Of each byte, and of NO_BYTE, whether some token goes on with it."""
    found = np.zeros(NO_BYTE + 1, np.bool_)
    if node != NOWHERE:
        for child in range(longer.children[node], longer.children[node + 1]):
            found[longer.byte[child]] = True
    return found


@compiled_part
@no_type_check
def begins_with(tokens, token, skip, bytes_):
    """Whether the bytes of a source token from byte `skip` on begin with one of these."""
    if skip == 0:  # of most that are asked about: one look into memory in place of two
        return bytes_[tokens.first[token]]
    at = tokens.starts[token] + skip
    return at < tokens.starts[token + 1] and bytes_[tokens.pieces[at]]


@compiled_part
@no_type_check
def may_go_on(longer, node):
    """Whether some token is longer."""
    return node != NOWHERE and longer.children[node + 1] > longer.children[node]
