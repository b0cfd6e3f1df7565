"""Which documents share a block: what is packed fast is what the slow, obvious way packs, and it is kept."""

import pickle
from bisect import bisect_left
from pathlib import Path

import numpy as np
import pytest
from experiments_for_tests import documents
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_for_tests import surface

from knowfuse.surface.tokens import tokenize_documents
from knowfuse.training import packing
from knowfuse.training.packing import Blocks, kept_blocks, pack

LENGTHS = st.lists(st.integers(1, 50), max_size=80)


def listed(found: Blocks) -> list[list[int]]:
    return [block.tolist() for block in found]


def blocks_of(lengths: list[int], block_tokens: int) -> list[list[int]]:
    return listed(pack(np.array(lengths, dtype=np.int64), np.arange(len(lengths)), block_tokens))


def slow(lengths: list[int], block_tokens: int) -> list[list[int]]:
    """Best fit in decreasing order with lists: of the blocks with the least room the one that was filled last."""
    blocks: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # free tokens -> blocks
    rooms: list[int] = []  # the keys of with_room, sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(rooms, lengths[index])
        if at == len(rooms):
            block, room = len(blocks), block_tokens
            blocks.append([])
        else:
            room = rooms[at]
            block = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[at]
        blocks[block].append(index)
        left = room - lengths[index]
        if left not in with_room:
            with_room[left] = []
            rooms.insert(bisect_left(rooms, left), left)
        with_room[left].append(block)
    return blocks


@given(LENGTHS, st.integers(50, 130))
def test_the_same_blocks_in_the_same_order_as_the_slow_way(lengths: list[int], block_tokens: int) -> None:
    assert blocks_of(lengths, block_tokens) == slow(lengths, block_tokens)


def test_many_documents_are_packed_as_the_slow_way_does() -> None:
    """20,000 of all lengths, few of which are equal, in blocks that are no power of two."""
    lengths = np.random.default_rng(0).integers(1, 3000, 20_000).tolist()
    assert blocks_of(lengths, 3001) == slow(lengths, 3001)


@given(LENGTHS, st.integers(50, 120))
def test_every_document_is_packed_once_and_no_block_overflows(lengths: list[int], block_tokens: int) -> None:
    blocks = blocks_of(lengths, block_tokens)
    assert sorted(i for block in blocks for i in block) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in block) <= block_tokens for block in blocks)


@given(LENGTHS.filter(bool))
def test_packing_wastes_little(lengths: list[int]) -> None:
    """No two blocks would fit in one."""
    loads = sorted(sum(lengths[i] for i in block) for block in blocks_of(lengths, 50))
    assert len(loads) < 2 or loads[0] + loads[1] > 50


def test_best_fit_in_decreasing_order_by_hand() -> None:
    """8 and 7 open blocks of 10; 3 fits only beside 7; 2 beside 8; the next 2 opens a third."""
    assert blocks_of([2, 8, 3, 7, 2], 10) == [[1, 0], [3, 2], [4]]
    assert blocks_of([], 10) == []


@pytest.mark.parametrize("length", [0, 11])
def test_a_document_that_fits_in_no_block_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"documents of \d+ to \d+ tokens do not fit in blocks of 10"):
        blocks_of([5, length], 10)


def test_a_packing_is_kept_beside_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once per block length and limit; opened, it is what was packed, and goes to other processes as its path."""
    tokens = tokenize_documents(surface("llama"), documents(30), 96, tmp_path)
    first = kept_blocks(tokens, 96)
    other = kept_blocks(tokenize_documents(surface("llama"), documents(30), 39, tmp_path), 96)
    assert len(other.places) < len(first.places) == 30
    monkeypatch.setattr(packing, "pack", None)
    again = kept_blocks(tokens, 96)
    assert listed(again) == listed(first)
    sent = pickle.dumps(again)
    assert len(sent) < 500
    assert listed(pickle.loads(sent)) == listed(first)


def test_a_packing_cut_off_is_named(tmp_path: Path) -> None:
    tokens = tokenize_documents(surface("llama"), documents(30), 96, tmp_path)
    folder = kept_blocks(tokens, 96).folder
    assert folder is not None
    path = folder / "places.bin"
    for kept, reason in (
        (-8, r"places\.bin has 29 documents, the blocks have 30"),
        (-4, r"places\.bin has 236 bytes, 29"),
    ):
        whole = path.read_bytes()
        path.write_bytes(whole[:kept])
        with pytest.raises(
            ValueError, match=rf"-blocks-96-96' is cut off or damaged \(EOFError: {reason}.*: remove it"
        ):
            kept_blocks(tokens, 96)
        path.write_bytes(whole)
