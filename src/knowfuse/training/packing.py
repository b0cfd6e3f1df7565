"""Which documents share a block? Best fit in order of decreasing length, once for all processes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Int

from knowfuse.compiled import compiled
from knowfuse.files import make_folder_once, mapped_array, undamaged
from knowfuse.llms.isolation import Packing
from knowfuse.surface.tokens import TokenizedDocuments
from knowfuse.traces.reading import length_buckets

OFFSETS, PLACES = "offsets.bin", "places.bin"


@dataclass
class Blocks:
    """The documents of N blocks, one block after another; `empty` more at the end have none."""

    offsets: Int[np.ndarray, " offsets"]  # where each of the N blocks begins, [N + 1]
    places: Int[np.ndarray, " D"]
    folder: Path | None = None  # that they are mapped from
    empty: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1 + self.empty

    def __getitem__(self, block: int) -> Int[np.ndarray, " d"]:
        """The places of the documents of one block."""
        if not 0 <= block < len(self):
            raise IndexError(f"block {block} of {len(self)}")
        if block >= len(self.offsets) - 1:
            return self.places[:0]
        return self.places[int(self.offsets[block]) : int(self.offsets[block + 1])]

    def __iter__(self) -> Iterator[Int[np.ndarray, " d"]]:
        return (self[block] for block in range(len(self)))

    def __reduce__(self) -> tuple[Callable[..., "Blocks"], tuple[Any, ...]]:
        """A mapped packing goes to another process as its path."""
        if self.folder is not None:
            return _mapped, (self.folder, self.empty)
        return Blocks, (self.offsets, self.places, None, self.empty)


def kept_blocks(
    tokens: TokenizedDocuments, block_tokens: int, packing: Packing = "blocks", borders: Sequence[int] = ()
) -> Blocks:
    """The documents that are here in blocks; kept beside their tokens, where these are kept.

    `packing` is `blocks`, the documents of a row, or `one_document`, the rows of one document each: of near-equal length,
    and none on two sides of a border.
    """

    def make() -> Blocks:
        if packing == "blocks":
            return pack(tokens.sizes, tokens.places, block_tokens)
        lengths = dict(zip(tokens.places.tolist(), tokens.sizes[tokens.places].tolist(), strict=True))
        return _blocks_of(list(length_buckets(lengths, block_tokens, borders)))

    if tokens.folder is None:
        return make()
    kind = "-".join(map(str, [packing, block_tokens, tokens.max_tokens, *borders]))
    place = tokens.folder.with_name(f"{tokens.folder.name}-{kind}")

    def fill(unfinished: Path) -> None:
        blocks = make()
        for file, array in ((OFFSETS, blocks.offsets), (PLACES, blocks.places)):
            (unfinished / file).write_bytes(array.data)

    make_folder_once(place, fill)
    return _mapped(place)


def _blocks_of(listed: Sequence[Sequence[int]]) -> Blocks:
    offsets = np.cumsum([0, *map(len, listed)], dtype=np.int64)
    return Blocks(offsets, np.array([place for block in listed for place in block], dtype=np.int64))


def _mapped(place: Path, empty: int = 0) -> Blocks:
    """The packing in this folder; ValueError where a file of it is cut off."""
    with undamaged(place):
        offsets, places = (mapped_array(place / file, np.dtype("<i8")) for file in (OFFSETS, PLACES))
        if (wanted := int(offsets[-1])) != len(places):
            raise EOFError(f"{PLACES} has {len(places)} documents, the blocks have {wanted}")
        return Blocks(offsets, places, place, empty)


def pack(sizes: Int[np.ndarray, " D"], places: Int[np.ndarray, " d"], block_tokens: int) -> Blocks:
    """The documents at these places, whole, in blocks of so many tokens; O(D log block_tokens).

    `sizes` are the tokens of all documents. ValueError where a document does not fit in a block.
    """
    lengths = sizes[places].astype(np.int64)
    if len(lengths) and not 0 < lengths.min() <= lengths.max() <= block_tokens:
        raise ValueError(
            f"documents of {lengths.min()} to {lengths.max()} tokens do not fit in blocks of {block_tokens}"
        )
    order = np.argsort(-lengths, kind="stable")
    blocks = _best_fit(lengths[order], block_tokens)
    by_block = np.argsort(blocks, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(blocks))]).astype(np.int64)
    return Blocks(offsets, places[order[by_block]].astype(np.int64))


@compiled
@no_type_check
def _best_fit(lengths, block_tokens):
    """The block of each document: of the blocks with the least room that is enough the last one filled, else a new one.

    `last[room]` begins a list of the blocks with so many tokens free. `has_block` is a binary tree with the rooms as its
    leaves, whose nodes say whether there is a block below.
    """
    leaves = 1
    while leaves <= block_tokens:
        leaves *= 2
    has_block = np.zeros(2 * leaves, dtype=np.bool_)
    last = np.full(block_tokens + 1, -1, dtype=np.int64)
    before = np.empty(len(lengths), dtype=np.int64)
    blocks = np.empty(len(lengths), dtype=np.int64)
    made = 0
    for n in range(len(lengths)):
        room = _least_room(has_block, leaves, lengths[n])
        if room < 0:
            block, room = made, block_tokens
            made += 1
        else:
            block = last[room]
            last[room] = before[block]
            if last[room] < 0:
                _clear(has_block, leaves + room)
        blocks[n] = block
        left = room - lengths[n]
        before[block] = last[left]
        last[left] = block
        node = leaves + left
        while node > 0 and not has_block[node]:
            has_block[node] = True
            node //= 2
    return blocks


@compiled(inline="always")
@no_type_check
def _least_room(has_block, leaves, length):
    """The least room of at least this length that a block has; -1 where none has."""
    node = leaves + length
    while not has_block[node]:
        while node % 2 == 1:  # a right child: what comes after it is to the right of a node above
            node //= 2
        if node == 0:
            return -1
        node += 1
    while node < leaves:
        node = 2 * node if has_block[2 * node] else 2 * node + 1
    return node - leaves


@compiled(inline="always")
@no_type_check
def _clear(has_block, node):
    """Say that this leaf has no block any more, and the nodes above it that have no other."""
    has_block[node] = False
    node //= 2
    while node > 0 and not (has_block[2 * node] or has_block[2 * node + 1]):
        has_block[node] = False
        node //= 2
