"""The batches of a fit: their order, what they hold, and what is refused."""

import multiprocessing
import pickle
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from experiments_for_tests import data_module, documents, readers, trace_store
from hypothesis import given
from hypothesis import strategies as st
from lightning_utilities.core.apply_func import apply_to_collection
from tokenizers_for_tests import surface

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.llms.isolation import Packing
from knowfuse.training.blocks import SourceReader
from knowfuse.training.data import EndlessShuffle
from knowfuse.types import FusionBatch

TEXTS = documents(30)


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


def test_a_worker_ends_with_a_fit_that_is_killed(tmp_path: Path) -> None:
    """Whoever its parent is: this one waits for nothing, least of all for torch to look whether it has another."""
    begin = data_module(readers(tmp_path, TEXTS), num_workers=1).train_dataloader().worker_init_fn
    assert begin is not None
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)

    def work() -> None:
        begin(0)
        there.send("works")
        time.sleep(600)

    def fit() -> None:
        fork.Process(target=work).start()
        time.sleep(600)

    process = fork.Process(target=fit)
    process.start()
    there.close()
    assert here.recv() == "works"
    process.kill()
    assert here.poll(30)
    with pytest.raises(EOFError):  # nobody is left who could write
        here.recv()
    process.join()


def test_every_tensor_of_a_batch_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning needs a GPU's driver; a copy stands in for it, whose tensors must all be others, and equal."""
    batch = data_module(readers(tmp_path, TEXTS)).train_blocks[0]
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    found: dict[str, list[torch.Tensor]] = {"before": [], "after": []}
    for name, one in (("before", batch), ("after", batch.pin_memory())):
        apply_to_collection(one, torch.Tensor, found[name].append)
    assert len(found["before"]) == len(found["after"]) == 14
    for before, after in zip(found["before"], found["after"], strict=True):
        assert after.data_ptr() != before.data_ptr()
        assert torch.equal(after, before)


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


@pytest.mark.parametrize("world", [3, 5, 7])
def test_validation_on_several_ranks_is_every_document_once(world: int) -> None:
    """All ranks have as many batches, so that no collective waits for one that has none."""
    read, batches = [], set()
    for rank in range(world):
        data = data_module(batch_blocks=1)
        assert len(data.validation_blocks) % world, "or nothing would be shown"
        device = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(world_size=world, global_rank=rank, strategy=device)  # type: ignore[assignment]
        mine = list(data.val_dataloader())
        batches.add(len(mine))
        read.append(sum(int(b.label_bytes.sum()) for b in mine))
    assert sum(read) == sum(d.num_bytes for d in documents(8, "validation"))
    assert len(batches) == 1


@pytest.mark.parametrize("packing", ["blocks", "one_document"])
def test_two_ranks_train_on_other_documents(packing: Packing) -> None:
    """In an epoch each document is on one of them, once; blocks that are rows of one document too."""
    seen: list[list[tuple[int, ...]]] = []
    for rank in range(2):
        data = data_module(batch_blocks=1, packing=packing)
        number = len(data.train_blocks) // 2
        assert number >= 2
        device = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank, strategy=device)  # type: ignore[assignment]
        seen.append(
            [
                tuple(row[ids == document].tolist())
                for batch in take(data.train_dataloader(), number)
                for row, ids in zip(batch.input_ids, batch.document_ids, strict=True)
                for document in range(1, int(ids.max()) + 1)
            ]
        )
    together = [*seen[0], *seen[1]]
    assert len(set(together)) == len(together) >= 20
    assert min(map(len, seen)) > 0


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


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[SourceReader], list[FusionBatch]]:
    """A source, and twelve batches with what it says that were taken one after another."""
    sources = readers(tmp_path_factory.mktemp("traces"), TEXTS, ["neox"])
    return sources, take(data_module(sources).train_dataloader(), 12)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("stop", [1, 4, 5, 9])
def test_a_loader_goes_on_where_it_was(
    through: tuple[list[SourceReader], list[FusionBatch]], num_workers: int, stop: int
) -> None:
    """Also where a worker has already prepared later batches, and across the end of an epoch (4 batches)."""
    sources, whole = through
    loader = data_module(sources, num_workers=num_workers).train_dataloader()
    batches = iter(loader)
    before = [next(batches) for _ in range(stop)]
    state = loader.state_dict()
    resumed = data_module(sources, num_workers=num_workers).train_dataloader()
    resumed.load_state_dict(state)
    after = take(resumed, 12 - stop)
    for one, other in zip([*before, *after], whole, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)


def test_rows_that_would_decide_for_each_other_in_a_batch_are_refused() -> None:
    """Longrope: a batch of several blocks of rows could have documents on both sides of the length."""
    border = data_module().longest_document - 1
    with pytest.raises(
        ValueError, match=rf"reads a whole batch otherwise .* more than {border} tokens: set batch_blocks=1"
    ):
        data_module(packing="one_document", length_borders=[border])
    data_module(packing="one_document", length_borders=[border], batch_blocks=1)
