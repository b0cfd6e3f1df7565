"""What does a target pay once it is trained, and how does it go on? It is read by the Trainer that trained it.

On its devices, in its precision, in its shards: nothing of the model is anywhere twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from knowfuse.evaluation.batches import batches_of, in_rows
from knowfuse.evaluation.bits_per_byte import DocumentScores, count, merged_scores
from knowfuse.evaluation.read_progress import ReadProgress
from knowfuse.evaluation.told import Beginnings, Told, go_on, unpadded
from knowfuse.llms.checks import require_embedded
from knowfuse.llms.head import RowLogits
from knowfuse.llms.isolation import length_borders
from knowfuse.ranks import ALONE
from knowfuse.surface import Surface
from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.text.corpus import Document
from knowfuse.training.stopping import StopsWhenTold
from knowfuse.training.target import TargetModule
from knowfuse.training.weights import load_weights


def score_trained(
    trainer: Callable[..., L.Trainer],
    module: TargetModule,
    checkpoint: Path,
    surface: Surface,
    documents: Sequence[Document],
    max_tokens: int,
    batch_tokens: int,
    by_class: bool = False,
) -> DocumentScores:
    """The nats that the module's LLM, with the weights of this checkpoint, pays on each document.

    The ranks of the Trainer share the documents, and each returns what all of them found. Products are in the Trainer's
    precision, log-probabilities and sums in float32. ValueError for tokens that the LLM has no embedding of, for weights
    that are not the module's, and for nats that are not finite.
    """
    tokens = tokenize_documents(surface, documents, max_tokens)
    mine = DocumentScores({}, tokens.set_aside)
    read = _read(trainer, module, checkpoint, tokens, batch_tokens)
    for names, nats in read.batches:
        for name, row in zip(names, nats, strict=False):  # one of nothing has a row without a name
            count(mine, name, tokens[name], row, surface.name, tokens.data_of(name) if by_class else None)
    return mine if read.world == 1 else merged_scores(_of_all_ranks(mine, read.world))


def tell_trained(
    trainer: Callable[..., L.Trainer],
    module: TargetModule,
    checkpoint: Path,
    tokens: TokenizedDocuments,
    beginnings: Beginnings,
    batch_tokens: int,
) -> Told:
    """What the module's LLM, with the weights of this checkpoint, says of each document, and how it goes on.

    The ranks share the documents and go on together; each returns what all of them found.
    """
    goes_on = _GoesOn(beginnings)
    read = _read(trainer, module, checkpoint, tokens, batch_tokens, goes_on)
    told = Told({}, goes_on.went_on)
    for names, nats in read.batches:
        told.nats |= unpadded(tokens, names, nats)
    if read.world > 1:
        told.nats = {name: nats for share in _of_all_ranks(told.nats, read.world) for name, nats in share.items()}
    return told


@dataclass
class _Read:
    """The batches that this rank has read, each with its nats [B, T], and how many ranks there are."""

    batches: list[tuple[list[str], Any]]
    world: int


def _read(
    trainer: Callable[..., L.Trainer],
    module: TargetModule,
    checkpoint: Path,
    tokens: TokenizedDocuments,
    batch_tokens: int,
    *callbacks: L.Callback,
) -> _Read:
    runner = trainer(
        callbacks=[
            _Loads(checkpoint, tokens.name, tokens.largest_id),
            StopsWhenTold(),
            ReadProgress(f"scores {tokens.name}", tokens.num_tokens - len(tokens)),
            *callbacks,
        ],
        logger=False,
        profiler=None,  # without a logger its table would lie where the command was called
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the batches are dealt already
    )
    shares = _Shares(tokens, batch_tokens, length_borders(module.llm.config()))
    paid = runner.predict(module, shares)
    assert paid is not None
    return _Read(list(zip(shares.mine, paid, strict=True)), runner.world_size)


class _Loads(L.Callback):
    """Gives the module the weights of a checkpoint, once it is where it will run, and cut into shards if it will be."""

    def __init__(self, checkpoint: Path, name: str, largest_id: int) -> None:
        self.checkpoint, self.name, self.largest_id = checkpoint, name, largest_id

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TargetModule)
        require_embedded(pl_module.network, self.name, self.largest_id)
        load_weights(pl_module, self.checkpoint)


class _GoesOn(L.Callback):
    """Lets the module's LLM go on from beginnings once it has read all, where it is and in the Trainer's precision."""

    def __init__(self, beginnings: Beginnings) -> None:
        self.beginnings = beginnings
        self.went_on: dict[str, list[int]] = {}

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TargetModule)
        llm = RowLogits(pl_module.network, pl_module.head)
        with trainer.precision_plugin.predict_step_context():
            self.went_on = go_on(llm, self.beginnings, pl_module.device)


class _Shares(L.LightningDataModule):
    """The batches of each rank, as many for all: in shards no rank reads without the others."""

    def __init__(self, tokens: TokenizedDocuments, batch_tokens: int, borders: Sequence[int]) -> None:
        super().__init__()
        self.tokens, self.batch_tokens, self.borders = tokens, batch_tokens, borders
        self.mine: list[list[str]] = []

    def predict_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        world, rank = self.trainer.world_size, self.trainer.global_rank
        batches = batches_of(self.tokens, self.batch_tokens, ALONE, self.borders)
        self.mine = batches[rank::world]
        self.mine += [[]] * (max(len(batches[::world]), 1) - len(self.mine))
        return DataLoader(
            self.mine,  # pyright: ignore[reportArgumentType]  (a list is a data set)
            batch_size=None,
            collate_fn=lambda names: in_rows(self.tokens, names),
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )


def _of_all_ranks(mine: Any, world: int) -> list[Any]:
    found: list[Any] = [None] * world
    torch.distributed.all_gather_object(found, mine)
    return found
