"""Documents become blocks and batches, with the words of the sources at the right rows."""

import pickle
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest
import torch
from experiments_for_tests import data_module, documents, readers, trace_store
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_for_tests import surface

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.corpus import Document
from knowfuse.data import EndlessShuffle, PackedBlocks, SourceReader, collate, pack
from knowfuse.types import EMPTY, IGNORE, FusionBatch

TEXTS = documents(30)


# ---- packing ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 120))
def test_every_document_is_packed_once_and_no_block_overflows(lengths: list[int], block_tokens: int) -> None:
    blocks = pack(lengths, block_tokens)
    assert sorted(i for block in blocks for i in block) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in block) <= block_tokens for block in blocks)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_packing_wastes_little(lengths: list[int]) -> None:
    """No two blocks would fit in one."""
    loads = sorted(sum(lengths[i] for i in block) for block in pack(lengths, 50))
    assert len(loads) < 2 or loads[0] + loads[1] > 50


def test_best_fit_in_decreasing_order_by_hand() -> None:
    """8 and 7 open blocks of 10; 3 fits only beside 7; 2 beside 8; the next 2 opens a third."""
    assert pack([2, 8, 3, 7, 2], 10) == [[1, 0], [3, 2], [4]]
    assert pack([], 10) == []


# ---- blocks -----------------------------------------------------------------------------------------------------


def pieces(block: FusionBatch) -> list[tuple[int, slice]]:
    """The number and the rows of each document of a batch of one block."""
    numbers = block.document_ids[0].tolist()
    found = []
    for number in range(1, max(numbers) + 1):
        rows = [t for t, n in enumerate(numbers) if n == number]
        assert rows == list(range(rows[0], rows[-1] + 1)), "a document is in one piece"
        found.append((number, slice(rows[0], rows[-1] + 1)))
    return found


def test_the_rows_of_a_block() -> None:
    """Every block, document by document, against the tokenizer: row t speaks of token t + 1."""
    blocks = PackedBlocks(TEXTS, surface("llama"), 96)
    assert not blocks.set_aside
    seen = []
    for index in range(len(blocks)):
        block = blocks[index]
        assert block.input_ids.shape == (1, 96)
        assert block.sources is None
        places = pieces(block)
        for (_, rows), which in zip(places, blocks.blocks[index], strict=True):
            document = blocks.documents[which]
            seen.append(document.id)
            tokens = surface("llama").tokenize(document.text, document.is_complete)
            length = len(tokens.input_ids)
            assert block.input_ids[0, rows].tolist() == tokens.input_ids.tolist()
            assert block.labels[0, rows].tolist() == [*tokens.input_ids[1:].tolist(), IGNORE]
            assert block.position_ids[0, rows].tolist() == list(range(length))
            sizes = [int(tokens.ends[t + 1] - tokens.ends[t]) for t in range(length - 1)]
            assert block.label_bytes[0, rows].tolist() == [*sizes, 0]
            assert int(block.label_bytes[0, rows].sum()) == len(document.text.encode())
        padding = slice(places[-1][1].stop, None)
        assert not block.document_ids[0, padding].any()
        assert (block.labels[0, padding] == IGNORE).all()
        assert not block.label_bytes[0, padding].any()
    assert sorted(seen) == sorted(d.id for d in TEXTS)
    assert blocks.num_tokens == sum(len(surface("llama").tokenize(d.text, d.is_complete).input_ids) for d in TEXTS)


def test_documents_that_no_block_holds_are_set_aside_with_the_reason() -> None:
    long = Document("word " * 60, "code", "fusion")
    blocks = PackedBlocks([*TEXTS, long], surface("llama"), 96)
    assert list(blocks.set_aside) == [long.id]
    assert blocks.set_aside[long.id].endswith("tokens, 'llama' can hold 96")
    assert len(blocks.documents) == len(TEXTS)


def test_the_words_of_the_sources_are_at_the_rows_of_their_documents(tmp_path: Path) -> None:
    """Each document's rows against its own alignment, computed here; padding rows are not aligned."""
    sources = readers(tmp_path, TEXTS)
    blocks = PackedBlocks(TEXTS, surface("llama"), 96, sources)
    for index in range(len(blocks)):
        block = blocks[index]
        said = block.sources
        assert said is not None
        for (_, rows), which in zip(pieces(block), blocks.blocks[index], strict=True):
            document = blocks.documents[which]
            tokens = surface("llama").tokenize(document.text, document.is_complete)
            for s, source in enumerate(sources):
                want = source.align(source.store.read(document.id), tokens, document.text.encode())
                slots = want.topk.ids.shape[-1]
                assert said.topk.ids[0, s, rows, :slots].tolist() == want.topk.ids.tolist()
                assert said.topk.log_probs[0, s, rows, :slots].tolist() == want.topk.log_probs.tolist()
                assert (said.topk.log_probs[0, s, rows, slots:] == EMPTY).all()
                assert said.tail[0, s, rows].tolist() == want.tail.tolist()
                assert said.nll[0, s, rows].tolist() == want.nll.tolist()
                assert said.source_tokens[0, s, rows].tolist() == want.source_tokens.tolist()
                assert said.is_aligned[0, s, rows].tolist() == want.is_aligned.tolist()
                assert want.is_aligned.any()
        assert said.budget is not None
        rows_of_each = said.is_aligned[0].sum(-1)  # the classes of a row sum to 1, in float32 here
        torch.testing.assert_close(said.budget[0].sum(-1), rows_of_each.float(), rtol=1e-5, atol=0)
        assert not (said.is_aligned & (block.labels == IGNORE)[:, None]).any()
        assert not (said.is_aligned & (block.document_ids == 0)[:, None]).any()


def test_a_document_that_a_source_set_aside_is_not_aligned_there(tmp_path: Path) -> None:
    """Rows of that document in that source alone; the other source and the other documents are as before."""
    store = trace_store(tmp_path / "neox", "neox", TEXTS[1:])
    store.put_aside({TEXTS[0].id: "too long"})
    sources = [
        SourceReader(store, byte_exact(TokenizerPair(surface("neox"), surface("llama")))),
        *readers(tmp_path, TEXTS, ["unigram"]),
    ]
    blocks = PackedBlocks(TEXTS, surface("llama"), 96, sources)
    (index,) = [n for n, block in enumerate(blocks.blocks) if 0 in block]
    block = blocks[index]
    assert block.sources is not None
    for (_, rows), which in zip(pieces(block), blocks.blocks[index], strict=True):
        aligned = block.sources.is_aligned[0, :, rows]
        assert bool(aligned[0].any()) == (which != 0)
        assert aligned[1].any()


def test_a_block_of_which_no_source_spoke_has_no_mass_to_place(tmp_path: Path) -> None:
    """Beside one of which they did: zeros in the batch."""
    store = trace_store(tmp_path / "neox", "neox", TEXTS[1:])
    store.put_aside({TEXTS[0].id: "too long"})
    reader = SourceReader(store, byte_exact(TokenizerPair(surface("neox"), surface("llama"))))
    silent, spoken = (PackedBlocks([text], surface("llama"), 96, [reader])[0] for text in TEXTS[:2])
    batch = collate([silent, spoken])
    assert batch.sources is not None
    assert batch.sources.budget is not None
    assert batch.sources.budget.sum((1, 2))[0] == 0
    assert batch.sources.budget.sum((1, 2))[1] > 0


# ---- batches ----------------------------------------------------------------------------------------------------


def test_sources_with_fewer_slots_get_empty_ones(tmp_path: Path) -> None:
    """A block of three slots and one of ten, as a batch of ten."""
    blocks = PackedBlocks(TEXTS, surface("llama"), 96, readers(tmp_path, TEXTS))
    one, other = blocks[0], blocks[1]
    assert one.sources is not None
    assert other.sources is not None
    narrow = one.sources.topk
    narrow.ids, narrow.log_probs = narrow.ids[..., :3], narrow.log_probs[..., :3]
    width = other.sources.topk.ids.shape[-1]
    assert width > 3
    batch = collate([one, other])
    assert batch.sources is not None
    topk = batch.sources.topk
    assert topk.ids.shape == (2, 2, 96, width)
    assert torch.equal(topk.ids[0, ..., :3], narrow.ids[0])
    assert torch.equal(topk.log_probs[0, ..., :3], narrow.log_probs[0])
    assert (topk.log_probs[0, ..., 3:] == EMPTY).all()
    assert torch.equal(topk.log_probs[1], other.sources.topk.log_probs[0])
    for name in ("tail", "nll", "source_tokens", "is_aligned"):
        assert torch.equal(getattr(batch.sources, name)[1], getattr(other.sources, name)[0])
    for name in ("input_ids", "labels", "position_ids", "document_ids", "label_bytes"):
        assert torch.equal(getattr(batch, name), torch.cat([getattr(one, name), getattr(other, name)]))


def take(loader: Iterable[FusionBatch], number: int) -> list[FusionBatch]:
    return list(islice(loader, number))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_the_same_in_the_same_order_with_and_without_sources(tmp_path: Path, num_workers: int) -> None:
    """Two epochs of fused training against plain CLM: the comparison is of what is learned, not of the data."""
    plain = data_module()
    fused = data_module(readers(tmp_path, TEXTS), num_workers=num_workers)
    number = 2 * len(plain.train_blocks) // 3
    pairs = list(zip(take(plain.train_dataloader(), number), take(fused.train_dataloader(), number), strict=True))
    assert len(pairs) == number > 6
    for one, other in pairs:
        assert one.sources is None
        assert other.sources is not None
        for name in ("input_ids", "labels", "position_ids", "document_ids", "label_bytes"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_a_seed_decides_the_order() -> None:
    one, same, other = (take(data_module(seed=s).train_dataloader(), 3) for s in (1, 1, 2))
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(one, other, strict=True))


def test_validation_is_every_document_once() -> None:
    data = data_module()
    ids = [row for batch in data.val_dataloader() for row in batch.input_ids]
    assert len(ids) == len(data.validation_blocks)
    assert sum(int((b.label_bytes).sum()) for b in data.val_dataloader()) == sum(
        d.num_bytes for d in documents(8, "validation")
    )


def test_missing_traces_are_an_error(tmp_path: Path) -> None:
    short = SourceReader(
        trace_store(tmp_path, "neox", TEXTS[:-2], name="mpt"),
        byte_exact(TokenizerPair(surface("neox"), surface("llama"))),
    )
    with pytest.raises(
        ValueError, match=r"source 'mpt' has traces of 28 documents, the corpus has 30 .*knowfuse\.prepare"
    ):
        data_module([short])


def test_blocks_too_short_for_every_document_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"no training document fits in block_tokens=4 tokens of the target: set it"):
        data_module(block_tokens=4)


def test_documents_longer_than_the_target_can_hold_are_set_aside() -> None:
    """On both sides, though a block has room for them; a limit above the block's changes nothing."""
    data = data_module(max_document_tokens=39)
    for blocks, texts in (
        (data.train_blocks, documents(30)),
        (data.validation_blocks, documents(8, "validation")),
    ):
        lengths = {d.id: len(surface("llama").tokenize(d.text, d.is_complete).input_ids) for d in texts}
        assert blocks.set_aside == {i: f"{n} tokens, 'llama' can hold 39" for i, n in lengths.items() if n > 39}
        assert 0 < len(blocks.set_aside) < len(texts)
        assert max(int(blocks[i].position_ids.max()) for i in range(len(blocks))) < 39
        assert blocks[0].input_ids.shape == (1, 96)
    for limit in (None, 96, 1000):
        assert not data_module(max_document_tokens=limit).train_blocks.set_aside


def test_a_target_too_short_for_every_document_is_an_error() -> None:
    message = (
        r"no training document fits in the 3 tokens that target 'llama' can hold: set corpus\.max_document_bytes lower"
    )
    with pytest.raises(ValueError, match=message):
        data_module(max_document_tokens=3)


def test_a_reader_goes_to_another_process(tmp_path: Path) -> None:
    """As DataLoader workers get it where processes are spawned."""
    reader = readers(tmp_path, TEXTS, ["neox"])[0]
    tokens = surface("llama").tokenize(TEXTS[0].text, TEXTS[0].is_complete)
    one, other = reader.read(TEXTS[0], tokens), pickle.loads(pickle.dumps(reader)).read(TEXTS[0], tokens)
    assert one is not None
    assert other is not None
    assert one.topk.log_probs.tolist() == other.topk.log_probs.tolist()


# ---- order ------------------------------------------------------------------------------------------------------


@given(size=st.integers(1, 12), world=st.integers(1, 4), epochs=st.integers(1, 3), seed=st.integers(0, 3))
def test_ranks_together_see_every_index_once_an_epoch(size: int, world: int, epochs: int, seed: int) -> None:
    """`world` epochs divide evenly among the ranks: together they took every index as often as there were epochs."""
    rounds = size * epochs
    taken = [list(islice(EndlessShuffle(size, world, rank, seed), rounds)) for rank in range(world)]
    in_turn = [index for turn in zip(*taken, strict=True) for index in turn]
    for epoch in range(epochs * world):
        assert sorted(in_turn[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(size=st.integers(1, 12), stop=st.integers(0, 40), world=st.integers(1, 3))
def test_an_order_goes_on_where_it_was(size: int, stop: int, world: int) -> None:
    whole = list(islice(EndlessShuffle(size, world, world - 1, 7), 60))
    stopped, resumed = EndlessShuffle(size, world, world - 1, 7), EndlessShuffle(size, world, world - 1, 7)
    before = list(islice(stopped, stop))
    resumed.load_state_dict(stopped.state_dict())
    after = list(islice(resumed, 60 - stop))
    assert before + after == whole


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("stop", [1, 4, 5, 9])
def test_a_loader_goes_on_where_it_was(tmp_path: Path, num_workers: int, stop: int) -> None:
    """Also where a worker has already prepared later batches, and across the end of an epoch (4 batches)."""
    sources = readers(tmp_path, TEXTS, ["neox"])
    whole = take(data_module(sources).train_dataloader(), 12)
    loader = data_module(sources, num_workers=num_workers).train_dataloader()
    batches = iter(loader)
    before = [next(batches) for _ in range(stop)]
    state = loader.state_dict()
    resumed = data_module(sources, num_workers=num_workers).train_dataloader()
    resumed.load_state_dict(state)
    after = take(resumed, 12 - stop)
    for one, other in zip([*before, *after], whole, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
