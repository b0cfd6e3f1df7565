"""Documents become blocks, with the words of the sources at the right rows, and blocks become batches."""

from dataclasses import replace
from pathlib import Path

import torch
from experiments_for_tests import documents, readers, trace_store
from tokenizers_for_tests import surface

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.text.corpus import Document
from knowfuse.training.blocks import PackedBlocks, SourceReader, collate
from knowfuse.types import EMPTY, IGNORE, FusionBatch

TEXTS = documents(30)


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
        for (_, rows), which in zip(places, blocks.blocks[index].tolist(), strict=True):
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


def test_every_row_knows_the_domain_of_its_document() -> None:
    """By its place in the corpus: here four, dealt in turn; padding is of the first."""
    dealt = [replace(d, domain="abcd"[n % 4]) for n, d in enumerate(TEXTS)]
    blocks = PackedBlocks(dealt, surface("llama"), 96)
    names = blocks.documents.table.domains
    for index in range(len(blocks)):
        block = blocks[index]
        for (_, rows), which in zip(pieces(block), blocks.blocks[index].tolist(), strict=True):
            assert {names[n] for n in block.domains[0, rows].tolist()} == {dealt[which].domain}
        assert not block.domains[0, block.document_ids[0] == 0].any()


def test_documents_that_no_block_holds_are_set_aside_with_the_reason() -> None:
    long = Document("word " * 60, "code", "fusion")
    blocks = PackedBlocks([*TEXTS, long], surface("llama"), 96)
    assert list(blocks.set_aside) == [long.id]
    assert blocks.set_aside[long.id].endswith("tokens, 'llama' can hold 96")
    assert sorted(blocks.blocks.places.tolist()) == list(range(len(TEXTS)))


def test_the_words_of_the_sources_are_at_the_rows_of_their_documents(tmp_path: Path) -> None:
    """Each document's rows against its own alignment, computed here; padding rows are not aligned."""
    sources = readers(tmp_path, TEXTS)
    blocks = PackedBlocks(TEXTS, surface("llama"), 96, sources)
    for index in range(len(blocks)):
        block = blocks[index]
        said = block.sources
        assert said is not None
        for (_, rows), which in zip(pieces(block), blocks.blocks[index].tolist(), strict=True):
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
    (index,) = [n for n, block in enumerate(blocks.blocks) if 0 in block.tolist()]
    block = blocks[index]
    assert block.sources is not None
    for (_, rows), which in zip(pieces(block), blocks.blocks[index].tolist(), strict=True):
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
    for name in ("input_ids", "labels", "position_ids", "document_ids", "label_bytes", "domains"):
        assert torch.equal(getattr(batch, name), torch.cat([getattr(one, name), getattr(other, name)]))


def test_a_document_a_row(tmp_path: Path) -> None:
    """The same rows as in blocks of one row, words of the sources among them, padded to the longest of their block."""
    sources = readers(tmp_path, TEXTS)
    packed = PackedBlocks(TEXTS, surface("llama"), 96, sources)
    rowwise = PackedBlocks(TEXTS, surface("llama"), 96, sources, packing="one_document")
    seen = []
    for index in range(len(rowwise)):
        block = rowwise[index]
        assert block.input_ids.numel() <= 96
        assert block.input_ids.shape[0] == len(rowwise.blocks[index])
        for row, which in enumerate(rowwise.blocks[index].tolist()):
            length = rowwise.tokens.lengths[rowwise.documents[which].id]
            there = next(b for b, members in enumerate(packed.blocks) if which in members.tolist())
            other, number = packed[there], packed.blocks[there].tolist().index(which) + 1
            place = (other.document_ids[0] == number).nonzero()[:, 0]
            for name in ("input_ids", "labels", "position_ids", "label_bytes"):
                assert torch.equal(getattr(block, name)[row, :length], getattr(other, name)[0, place])
            assert (block.labels[row, length:] == IGNORE).all()
            assert not block.document_ids[row, length:].any()
            assert block.sources is not None
            assert other.sources is not None
            assert torch.equal(block.sources.nll[row, :, :length], other.sources.nll[0][:, place])
            assert not block.sources.is_aligned[row, :, length:].any()
            seen.append(which)
    assert sorted(seen) == list(range(len(TEXTS)))


def test_rows_on_two_sides_of_a_border_share_no_block() -> None:
    lengths = PackedBlocks(TEXTS, surface("llama"), 96).tokens.lengths
    border = sorted(lengths.values())[len(lengths) // 2]
    blocks = PackedBlocks(TEXTS, surface("llama"), 960, packing="one_document", borders=[border])
    sides = [{lengths[blocks.documents[i].id] > border for i in block.tolist()} for block in blocks.blocks]
    assert all(len(side) == 1 for side in sides)
    assert {True} in sides
    assert {False} in sides
