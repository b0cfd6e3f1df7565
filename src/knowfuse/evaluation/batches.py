"""Which documents are read at once to be scored, and by which of several processes?"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from knowfuse.ranks import Ranks
from knowfuse.surface.tokens import TokenizedDocuments
from knowfuse.traces.reading import length_buckets
from knowfuse.types import IGNORE


def batches_of(
    tokens: TokenizedDocuments, batch_tokens: int, mine: Ranks, borders: Sequence[int] = ()
) -> list[list[str]]:
    """The ids of the documents of each batch that this process reads.

    Batches are those of one process, of growing length, dealt in turn: a document has the same companions however many
    processes there are, and at any time all read about as many tokens.
    """
    return list(length_buckets(tokens.lengths, batch_tokens, borders))[mine.rank :: mine.world]


def in_rows(tokens: TokenizedDocuments, names: Sequence[str]) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Token ids and shifted labels of these documents, padded on the right; one row of nothing where there are none."""
    read = [torch.from_numpy(tokens[name].input_ids) for name in names]
    ids = torch.zeros(max(len(read), 1), max(map(len, read), default=1), dtype=torch.int64)
    labels = torch.full_like(ids, IGNORE)
    for n, row in enumerate(read):
        ids[n, : len(row)] = row
        labels[n, : len(row) - 1] = row[1:]
    return ids, labels
