"""How do batches reach training? The LightningDataModule, and the order of its blocks.

Blocks are made in the workers (`packing`): no source LLM runs while training.
"""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from threading import Thread

import lightning as L
import torch
from torch.utils.data import Sampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from knowfuse.llms.isolation import Packing
from knowfuse.surface import Surface
from knowfuse.surface.set_aside import report_set_aside
from knowfuse.surface.unspellable import TOO_LONG, by_kind
from knowfuse.text.document import Document
from knowfuse.text.documents import Documents
from knowfuse.training.blocks import PackedBlocks, SourceReader, collate


class EndlessShuffle(Sampler[int]):
    """Every index once in random order, then in another, without end; ranks take turns.

    Lightning sees one epoch, whose end it never reaches: it loses its place where a checkpoint falls on the end of an
    epoch, and the last batch of an epoch would be a smaller step. `state_dict` keeps the place.
    """

    LENGTH = 2**40  # more than anyone takes; with a length Lightning fetches no batch ahead of its checkpoint

    def __init__(self, size: int, world: int, rank: int, seed: int, start: int = 0) -> None:
        self.size, self.world, self.rank, self.seed = size, world, rank, seed
        self.taken = self.start = start  # indices that this rank took before
        self.epoch, self.order = -1, torch.empty(0)

    def __len__(self) -> int:
        return self.LENGTH

    def __iter__(self) -> Iterator[int]:
        self.taken, self.start = self.start, 0
        for place in count(self.taken * self.world + self.rank, self.world):
            self.taken += 1
            yield self.at(place)

    def at(self, place: int) -> int:
        """The index at this place of the order that all ranks share."""
        if self.epoch != place // self.size:
            self.epoch = place // self.size
            self.order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed + self.epoch))
        return int(self.order[place % self.size])

    def state_dict(self) -> dict[str, int]:
        return {"taken": self.taken}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.start = state_dict["taken"]


class FusionDataModule(L.LightningDataModule):
    """Serves training blocks with aligned sources, and validation blocks without; `packing` says what a block is.

    `sources` is empty for plain CLM. Batches are the same documents in the same order whatever the sources are.
    `num_workers` processes align, each `prefetch_batches` ahead; batches for a GPU are in pinned memory.
    `max_document_tokens` is what the target can hold; a longer document is set aside, however much room a block has.
    Tokens are cut once and kept in `tokens_folder`.
    Documents on two sides of a length in `length_borders` share no batch where a document is a row.
    Raises ValueError where a source has not read all training documents, the target can read none, or none fits in a block.
    """

    def __init__(
        self,
        train: Sequence[Document],
        validation: Sequence[Document],
        surface: Surface,
        sources: Sequence[SourceReader] = (),
        *,
        block_tokens: int,
        batch_blocks: int,
        num_workers: int = 0,
        prefetch_batches: int = 2,
        seed: int = 0,
        max_document_tokens: int | None = None,
        tokens_folder: Path | None = None,
        packing: Packing = "blocks",
        length_borders: Sequence[int] = (),
    ) -> None:
        super().__init__()
        train = Documents.of(train)
        for source in sources:
            source.store.require(train.ids)
        shape = (max_document_tokens, tokens_folder, packing, length_borders)
        self.train_blocks = PackedBlocks(train, surface, block_tokens, sources, *shape)
        self.validation_blocks = PackedBlocks(validation, surface, block_tokens, (), *shape)
        for side, blocks, documents in (
            ("training", self.train_blocks, train),
            ("validation", self.validation_blocks, Documents.of(validation)),
        ):
            if len(blocks) > 0:
                continue
            if by_kind(blocks.set_aside.values()).keys() - {TOO_LONG}:
                report_set_aside("target", surface, blocks.set_aside, documents, f"{side} documents")
            if max_document_tokens is not None and max_document_tokens < block_tokens:
                raise ValueError(
                    f"no {side} document fits in the {max_document_tokens} tokens that target {surface.name!r} can hold: "
                    "set corpus.max_document_bytes lower, or target= to an LLM that holds more"
                )
            raise ValueError(
                f"no {side} document fits in block_tokens={block_tokens} tokens of the target: set it higher, or "
                "corpus.max_document_bytes lower"
            )
        if packing == "one_document" and batch_blocks > 1:
            for border in length_borders:
                if min(self.train_blocks.shortest, self.validation_blocks.shortest) <= border < self.longest_document:
                    raise ValueError(
                        f"target {surface.name!r} reads a whole batch otherwise where one of its documents has more than {border} "
                        "tokens: set batch_blocks=1, and trainer.accumulate_grad_batches for as many tokens a step"
                    )
        self.batch_blocks, self.seed, self.block_tokens = batch_blocks, seed, block_tokens
        self.num_workers, self.prefetch_batches = num_workers, prefetch_batches
        self._order = EndlessShuffle(len(self.train_blocks), 1, 0, seed)
        self._counted = (-1, 0, 0)  # the step whose labels were counted last, its batches, the labels
        self.blocks_taken = 0  # by all ranks, before training starts: a fit that goes on with other ranks sets it

    @property
    def longest_document(self) -> int:
        """Tokens of the longest document in any block."""
        return max(self.train_blocks.longest, self.validation_blocks.longest)

    @property
    def domains(self) -> list[str]:
        """What the numbers in a training batch's `domains` stand for."""
        return self.train_blocks.documents.table.domains

    @property
    def validation_domains(self) -> list[str]:
        """The same of a validation batch."""
        return self.validation_blocks.documents.table.domains

    @property
    def largest_token_id(self) -> int:
        """Of training and validation documents; the target must have an embedding of it."""
        return max(self.train_blocks.largest_token_id, self.validation_blocks.largest_token_id)

    def labels_of_step(self, step: int, batches: int) -> int:
        """Labels of optimizer step `step`, the first of which is 0, of so many batches on each rank: of all of them."""
        if self._counted[:2] == (step, batches):
            return self._counted[2]
        blocks = self._ranks[0] * self.batch_blocks * batches
        labels = sum(
            self.train_blocks.num_labels(self._order.at(place)) for place in range(step * blocks, (step + 1) * blocks)
        )
        self._counted = (step, batches, labels)  # each of its batches asks
        return labels

    def train_dataloader(self) -> StatefulDataLoader:
        """Without end: `trainer.max_steps` says when to stop."""
        world, rank = self._ranks
        shuffle = EndlessShuffle(len(self.train_blocks), world, rank, self.seed, self.blocks_taken // world)
        return self._loader(self.train_blocks, shuffle)

    def val_dataloader(self) -> StatefulDataLoader:
        """Every block once, on one of the ranks; where they do not divide, some read a block without a document."""
        blocks = self.validation_blocks.in_shares(self._ranks[0])
        return self._loader(blocks, StatefulDistributedSampler(blocks, *self._ranks, shuffle=False))

    @property
    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, blocks: PackedBlocks, sampler: Sampler[int]) -> StatefulDataLoader:
        num_workers = self.num_workers if blocks.sources else 0
        return StatefulDataLoader(
            blocks,
            batch_size=self.batch_blocks,
            sampler=sampler,
            num_workers=num_workers,
            prefetch_factor=self.prefetch_batches if num_workers else None,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            collate_fn=collate,
            worker_init_fn=_end_with_the_fit,
            persistent_workers=False,
        )


def _end_with_the_fit(worker: int) -> None:
    """A worker is gone once the fit is that had it started, killed or not.

    torch's workers look whether they have another parent now; of those that a fork server started, as in a study, the server
    stays the parent.
    """
    fit = multiprocessing.parent_process()
    assert fit is not None

    def follow() -> None:
        fit.join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()
