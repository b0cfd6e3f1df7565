"""How do documents become blocks and batches of blocks, with the words of the sources at the right rows?

Documents are packed whole into blocks of `block_tokens`; attention stays inside each. Alignment happens here, when a block
is asked for.
"""

from bisect import bisect_left
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from knowfuse.surface import Surface
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.text.corpus import Document
from knowfuse.traces.store import TraceStore
from knowfuse.types import (
    EMPTY,
    IGNORE,
    MASS_CLASSES,
    AlignedSource,
    AlignedSources,
    Aligner,
    FusionBatch,
    TokenizedDocument,
    TopK,
)


@dataclass
class SourceReader:
    """One source's traces and its way onto the target's tokens."""

    store: TraceStore
    align: Aligner

    @property
    def name(self) -> str:
        return self.store.source

    def read(self, document: Document, target: TokenizedDocument) -> AlignedSource | None:
        """What the source said on the target's rows; None where it could not read the document."""
        if document.id in self.store.set_aside:
            return None
        return self.align(self.store.read(document.id), target, document.text.encode())


def pack(lengths: Sequence[int], block_tokens: int) -> list[list[int]]:
    """Indices of whole documents, block by block, best fit in order of decreasing length; O(N log block_tokens)."""
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


class PackedBlocks(Dataset[FusionBatch]):
    """Blocks of whole documents in the target's tokens; each item is a batch of one block, aligned when asked for."""

    def __init__(
        self,
        documents: Sequence[Document],
        surface: Surface,
        block_tokens: int,
        sources: Sequence[SourceReader] = (),
        max_document_tokens: int | None = None,
        tokens_folder: Path | None = None,
    ) -> None:
        longest = block_tokens if max_document_tokens is None else min(block_tokens, max_document_tokens)
        self.tokens = tokenize_documents(surface, documents, longest, tokens_folder)
        self.documents = [d for d in documents if d.id in self.tokens]
        lengths = self.tokens.lengths
        self.blocks = pack([lengths[d.id] for d in self.documents], block_tokens)
        self.block_tokens, self.sources = block_tokens, list(sources)

    def in_shares(self, number: int) -> "PackedBlocks":
        """The same blocks, and so many without a document that their number is a multiple: shares of it are equal."""
        shared = copy(self)
        shared.blocks = [*self.blocks, *([] for _ in range(-len(self.blocks) % number))]
        return shared

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def set_aside(self) -> dict[str, str]:
        return self.tokens.set_aside

    @property
    def num_tokens(self) -> int:
        return sum(self.tokens.lengths.values())

    @property
    def largest_token_id(self) -> int:
        return self.tokens.largest_id

    def __getitem__(self, index: int) -> FusionBatch:
        documents = [self.documents[i] for i in self.blocks[index]]
        rows = {
            name: np.zeros(self.block_tokens, dtype=np.int64) for name in ("ids", "positions", "documents", "bytes")
        }
        labels = np.full(self.block_tokens, IGNORE, dtype=np.int64)
        said: list[list[tuple[int, AlignedSource | None]]] = [[] for _ in self.sources]
        start = 0
        for number, document in enumerate(documents, 1):
            tokens = self.tokens[document.id]
            place = slice(start, start + len(tokens.input_ids))
            rows["ids"][place] = tokens.input_ids
            rows["positions"][place] = np.arange(len(tokens.input_ids))
            rows["documents"][place] = number
            labels[start : place.stop - 1] = tokens.input_ids[1:]
            rows["bytes"][start : place.stop - 1] = np.diff(tokens.ends)
            for source, words in zip(self.sources, said, strict=True):
                words.append((start, source.read(document, tokens)))
            start = place.stop
        return FusionBatch(
            input_ids=torch.from_numpy(rows["ids"])[None],
            labels=torch.from_numpy(labels)[None],
            position_ids=torch.from_numpy(rows["positions"])[None],
            document_ids=torch.from_numpy(rows["documents"])[None],
            label_bytes=torch.from_numpy(rows["bytes"])[None],
            sources=_stack(said, self.block_tokens) if self.sources else None,
        )


def _stack(said: list[list[tuple[int, AlignedSource | None]]], block_tokens: int) -> AlignedSources:
    """The words of S sources on the documents of one block; rows that nobody spoke of are not aligned. [1, S, T, K]."""
    shape = (1, len(said), block_tokens)
    width = max((w.topk.ids.shape[-1] for words in said for _, w in words if w), default=1)
    ids, log_probs = torch.zeros(*shape, width, dtype=torch.int64), torch.full((*shape, width), EMPTY)
    tail, nll, source_tokens = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
    is_aligned = torch.zeros(shape, dtype=torch.bool)
    words_said = [w for words in said for _, w in words if w]
    has_budget = any(w.budget is not None for w in words_said)
    budget = torch.zeros(*shape[:2], len(MASS_CLASSES)) if has_budget else None
    for s, words in enumerate(said):
        for start, word in words:
            if word is None:
                continue
            rows, slots = slice(start, start + len(word.nll)), slice(word.topk.ids.shape[-1])
            ids[0, s, rows, slots] = torch.from_numpy(word.topk.ids)
            log_probs[0, s, rows, slots] = torch.from_numpy(word.topk.log_probs)
            tail[0, s, rows] = torch.from_numpy(word.tail)
            nll[0, s, rows] = torch.from_numpy(word.nll)
            source_tokens[0, s, rows] = torch.from_numpy(word.source_tokens)
            is_aligned[0, s, rows] = torch.from_numpy(word.is_aligned)
            if budget is not None and word.budget is not None:
                budget[0, s] += torch.from_numpy(word.budget[word.is_aligned].sum(0))
    return AlignedSources(
        TopK(ids, log_probs),
        tail,
        nll,
        source_tokens,
        is_aligned,
        budget,
        is_by_rank=any(w.is_by_rank for w in words_said),
    )


def collate(blocks: Sequence[FusionBatch]) -> FusionBatch:
    """Blocks as one batch; sources whose rows have fewer slots get empty ones."""
    sources = None
    if blocks[0].sources is not None:
        said = [b.sources for b in blocks if b.sources is not None]
        width = max(s.topk.ids.shape[-1] for s in said)
        pad = torch.nn.functional.pad
        sources = AlignedSources(
            TopK(
                torch.cat([pad(s.topk.ids, (0, width - s.topk.ids.shape[-1])) for s in said]),
                torch.cat([pad(s.topk.log_probs, (0, width - s.topk.ids.shape[-1]), value=EMPTY) for s in said]),
            ),
            torch.cat([s.tail for s in said]),
            torch.cat([s.nll for s in said]),
            torch.cat([s.source_tokens for s in said]),
            torch.cat([s.is_aligned for s in said]),
            _budgets(said),
            is_by_rank=any(s.is_by_rank for s in said),
        )
    return FusionBatch(
        input_ids=torch.cat([b.input_ids for b in blocks]),
        labels=torch.cat([b.labels for b in blocks]),
        position_ids=torch.cat([b.position_ids for b in blocks]),
        document_ids=torch.cat([b.document_ids for b in blocks]),
        label_bytes=torch.cat([b.label_bytes for b in blocks]),
        sources=sources,
    )


def _budgets(said: Sequence[AlignedSources]) -> Tensor | None:
    """The mass budgets of all blocks; zeros for a block of which no source spoke."""
    given = [s.budget for s in said if s.budget is not None]
    if not given:
        return None
    return torch.cat([torch.zeros_like(given[0]) if s.budget is None else s.budget for s in said])
