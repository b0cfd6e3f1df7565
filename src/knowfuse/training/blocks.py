"""How do documents become blocks and batches of blocks, with the words of the sources at the right rows?

Documents are packed whole into blocks of `block_tokens`, and the LLM reads each as if it were alone; or, for an LLM that
cannot, a block is rows of one document each, of near-equal length, padded on the right. Alignment happens here, when a
block is asked for.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from knowfuse.llms.isolation import Packing
from knowfuse.surface import Surface
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.surface.turns import learnt_rows
from knowfuse.text.document import Document
from knowfuse.text.documents import Documents
from knowfuse.traces.store import TraceStore
from knowfuse.training.packing import kept_blocks
from knowfuse.types import (
    EMPTY,
    IGNORE,
    MASS_CLASSES,
    ROW_CLASSES,
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
    own: TraceStore | None = None  # of the source that is the target, where `align` asks what that said

    @property
    def name(self) -> str:
        return self.store.source

    def read(self, document: Document, target: TokenizedDocument) -> AlignedSource | None:
        """What the source said on the target's rows; None where it, or the target whose words are asked for, could not read it."""
        if document.id in self.store.set_aside:
            return None
        if self.own is not None:
            if document.id in self.own.set_aside:
                return None
            target = replace(target, own=self.own.read(document.id).topk)
        return self.align(self.store.read(document.id), target, document.text.encode())


class PackedBlocks(Dataset[FusionBatch]):
    """Blocks of whole documents in the target's tokens; each item is a batch of one block, aligned when asked for.

    `packing` is `blocks`, one row of documents one after another, or `one_document`, rows of one document each. Documents
    on two sides of a length in `borders` share no batch of rows.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        surface: Surface,
        block_tokens: int,
        sources: Sequence[SourceReader] = (),
        max_document_tokens: int | None = None,
        tokens_folder: Path | None = None,
        packing: Packing = "blocks",
        borders: Sequence[int] = (),
    ) -> None:
        longest = block_tokens if max_document_tokens is None else min(block_tokens, max_document_tokens)
        self.documents = Documents.of(documents)
        self.tokens = tokenize_documents(surface, self.documents, longest, tokens_folder)
        self.blocks = kept_blocks(self.tokens, block_tokens, packing, borders)
        lengths = self.tokens.sizes[self.tokens.places]
        self.shortest, self.longest = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
        self.block_tokens, self.packing, self.sources = block_tokens, packing, list(sources)

    def in_shares(self, number: int) -> "PackedBlocks":
        """The same blocks, and so many without a document that their number is a multiple: shares of it are equal."""
        shared = copy(self)
        shared.blocks = replace(self.blocks, empty=-len(self.blocks) % number)
        return shared

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def set_aside(self) -> dict[str, str]:
        return self.tokens.set_aside

    @property
    def num_tokens(self) -> int:
        return self.tokens.num_tokens

    @property
    def largest_token_id(self) -> int:
        return self.tokens.largest_id

    def num_labels(self, index: int) -> int:
        """Rows of this block that predict a token which is learnt: of each text all but its last."""
        places = self.blocks[index]
        if self.documents.is_learnt_whole:
            return int((self.tokens.sizes[places] - 1).clip(min=0).sum())
        return sum(int(np.sum(learnt_rows(self.tokens.at(place)))) for place in places.tolist())

    @property
    def _is_drawn(self) -> bool:
        return any(source.store.key.kept == "sampled" for source in self.sources)

    def __getitem__(self, index: int) -> FusionBatch:
        places = self.blocks[index]
        if self.packing == "blocks":
            return self._row(places, self.block_tokens)
        longest = int(self.tokens.sizes[places].max(initial=1))
        return collate([self._row(places[n : n + 1], longest) for n in range(max(1, len(places)))])

    def _row(self, places: Int[np.ndarray, " d"], length: int) -> FusionBatch:
        """Documents one after another in a row of this length, [1, T]; what is left of it is padding."""
        rows = {
            name: np.zeros(length, dtype=np.int64) for name in ("ids", "positions", "documents", "bytes", "domains")
        }
        labels = np.full(length, IGNORE, dtype=np.int64)
        said: list[list[tuple[int, AlignedSource | None]]] = [[] for _ in self.sources]
        start = longest = 0
        for number, document_place in enumerate(places.tolist(), 1):
            document, tokens = self.documents[document_place], self.tokens.at(document_place)
            place = slice(start, start + len(tokens.input_ids))
            rows["ids"][place] = tokens.input_ids
            rows["positions"][place] = np.arange(len(tokens.input_ids))
            rows["documents"][place] = number
            rows["domains"][place] = self.documents.table.domain_codes[self.documents.rows[document_place]]
            is_text, is_end = (mask[:-1] for mask in learnt_rows(tokens))
            labels[start : place.stop - 1] = np.where(is_text | is_end, tokens.input_ids[1:], IGNORE)
            rows["bytes"][start : place.stop - 1] = np.where(is_text, np.diff(tokens.ends), 0)
            for source, words in zip(self.sources, said, strict=True):
                words.append((start, source.read(document, tokens)))
            start, longest = place.stop, max(longest, len(tokens.input_ids))
        # Padding is a document like others where positions tell them apart, and has no position that they have not.
        rows["positions"][start:] = np.arange(length - start) % max(1, longest)
        return FusionBatch(
            input_ids=torch.from_numpy(rows["ids"])[None],
            labels=torch.from_numpy(labels)[None],
            position_ids=torch.from_numpy(rows["positions"])[None],
            document_ids=torch.from_numpy(rows["documents"])[None],
            label_bytes=torch.from_numpy(rows["bytes"])[None],
            domains=torch.from_numpy(rows["domains"])[None],
            sources=stacked(said, length, self._is_drawn) if self.sources else None,
        )


def stacked(
    said: list[list[tuple[int, AlignedSource | None]]], block_tokens: int, is_drawn: bool = False
) -> AlignedSources:
    """The words of S sources on the documents of one block; rows that nobody spoke of are not aligned. [1, S, T, K]."""
    shape = (1, len(said), block_tokens)
    width = max((w.topk.ids.shape[-1] for words in said for _, w in words if w), default=1)
    ids, log_probs = torch.zeros(*shape, width, dtype=torch.int64), torch.full((*shape, width), EMPTY)
    tail, nll, source_tokens = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
    is_aligned = torch.zeros(shape, dtype=torch.bool)
    words_said = [w for words in said for _, w in words if w]
    remainder = _one_remainder([w.remainder for w in words_said])
    has_budget = any(w.budget is not None for w in words_said)
    budget = torch.zeros(*shape[:2], len(MASS_CLASSES)) if has_budget else None
    has_classes = any(w.row_classes is not None for w in words_said)
    classes = torch.zeros(*shape[:2], len(ROW_CLASSES)) if has_classes else None
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
            if classes is not None and word.row_classes is not None:
                counts = np.bincount(word.row_classes[word.is_aligned], minlength=len(ROW_CLASSES))
                classes[0, s] += torch.from_numpy(counts)
    return AlignedSources(
        TopK(ids, log_probs),
        tail,
        nll,
        source_tokens,
        is_aligned,
        budget,
        classes,
        is_by_rank=any(w.is_by_rank for w in words_said),
        remainder=None if remainder is None else torch.from_numpy(remainder),
        is_drawn=is_drawn,
    )


def _one_remainder(found: Sequence[Int[np.ndarray, " R"] | None]) -> Int[np.ndarray, " R"] | None:
    """The remainder of all words; ValueError where they have several, whose ranks are not of the same tokens."""
    several = list({id(its): its for its in found}.values())
    for its in several[1:]:
        if its is None or several[0] is None or not np.array_equal(its, several[0]):
            sizes = ["all" if r is None else len(r) for r in several]
            raise ValueError(
                f"the sources rank different tokens of the target ({sizes} of them): align all by one method, and give each "
                "TokenizerPair the tokenizers of the other sources, as others"
            )
    return several[0] if several else None


def collate(blocks: Sequence[FusionBatch]) -> FusionBatch:
    """Blocks as one batch; shorter rows are padded, and sources whose rows have fewer slots get empty ones."""
    length = max(b.input_ids.shape[1] for b in blocks)

    def rows(name: str, padding: int = 0) -> Tensor:
        parts = [getattr(b, name) for b in blocks]
        return torch.cat([pad(part, (0, length - part.shape[1]), value=padding) for part in parts])

    return FusionBatch(
        input_ids=rows("input_ids"),
        labels=rows("labels", IGNORE),
        position_ids=rows("position_ids"),
        document_ids=rows("document_ids"),
        label_bytes=rows("label_bytes"),
        domains=rows("domains"),
        sources=_collated([b.sources for b in blocks if b.sources is not None], length),
    )


def _collated(said: Sequence[AlignedSources], length: int) -> AlignedSources | None:
    """The words on rows [B, S, T, K] of this length; None where there are none."""
    if not said:
        return None
    width = max(s.topk.ids.shape[-1] for s in said)

    def slots(part: Tensor, empty: float = 0) -> Tensor:
        return pad(part, (0, width - part.shape[-1], 0, length - part.shape[-2]), value=empty)

    def rows(name: str) -> Tensor:
        parts = [getattr(s, name) for s in said]
        return torch.cat([pad(part, (0, length - part.shape[-1])) for part in parts])

    return AlignedSources(
        TopK(torch.cat([slots(s.topk.ids) for s in said]), torch.cat([slots(s.topk.log_probs, EMPTY) for s in said])),
        rows("tail"),
        rows("nll"),
        rows("source_tokens"),
        rows("is_aligned"),
        _added([s.budget for s in said]),
        _added([s.row_classes for s in said]),
        is_by_rank=any(s.is_by_rank for s in said),
        remainder=next((s.remainder for s in said if s.remainder is not None), None),
        is_drawn=any(s.is_drawn for s in said),
    )


def _added(sums: Sequence[Tensor | None]) -> Tensor | None:
    """The sums of all blocks, as the mass budgets; zeros for a block of which no source spoke."""
    given = [its for its in sums if its is not None]
    if not given:
        return None
    return torch.cat([torch.zeros_like(given[0]) if its is None else its for its in sums])
