"""What does a target pay once it is trained? It is read by the Trainer that trained it.

On its devices, in its precision, in its shards: nothing of the model is anywhere twice.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from knowfuse.evaluation.batches import batches_of, in_rows
from knowfuse.evaluation.bits_per_byte import DocumentScores, count, merged_scores
from knowfuse.llms.checks import require_embedded
from knowfuse.llms.isolation import length_borders
from knowfuse.ranks import ALONE
from knowfuse.surface import Surface
from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.text.corpus import Document
from knowfuse.training.module import FusionModule
from knowfuse.training.weights import load_weights


def score_trained(
    trainer: Callable[..., L.Trainer],
    module: FusionModule,
    checkpoint: Path,
    surface: Surface,
    documents: Sequence[Document],
    max_tokens: int,
    batch_tokens: int,
) -> DocumentScores:
    """The nats that the module's LLM, with the weights of this checkpoint, pays on each document.

    The ranks of the Trainer share the documents, and each returns what all of them found. Products are in the Trainer's
    precision, log-probabilities and sums in float32. ValueError for tokens that the LLM has no embedding of, for weights
    that are not the module's, and for nats that are not finite.
    """
    tokens = tokenize_documents(surface, documents, max_tokens)
    runner = trainer(
        callbacks=[_Loads(checkpoint, surface.name, tokens.largest_id)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the batches are dealt already
    )
    shares = _Shares(tokens, batch_tokens, length_borders(module.llm.config()))
    paid = runner.predict(module, shares)
    assert paid is not None
    mine = DocumentScores({}, tokens.set_aside)
    for names, nats in zip(shares.mine, paid, strict=True):
        for name, row in zip(names, nats, strict=False):  # one of nothing has a row without a name
            count(mine, name, tokens[name], row, surface.name)
    return _of_all_ranks(mine, runner.world_size)


class _Loads(L.Callback):
    """Gives the module the weights of a checkpoint, once it is where it will run, and cut into shards if it will be."""

    def __init__(self, checkpoint: Path, name: str, largest_id: int) -> None:
        self.checkpoint, self.name, self.largest_id = checkpoint, name, largest_id

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, FusionModule)
        require_embedded(pl_module.network, self.name, self.largest_id)
        load_weights(pl_module, self.checkpoint)


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


def _of_all_ranks(mine: DocumentScores, world: int) -> DocumentScores:
    if world == 1:
        return mine
    found: list[Any] = [None] * world
    torch.distributed.all_gather_object(found, mine)
    return merged_scores(found)
