"""Which tokens complete the bytes that the text owes, and what are they together?

What the text goes on with is bytes, and other tokens than the true one begin with them too: after `th`, ` the` owes what
` them` and ` there` begin with. All of these are one event, whose probability is a sum: of the target LLM over the tokens,
of the fused target over its slots among them. What the two say of a continuation is compared, whichever token says it.

After ESCD, arXiv 2609.34738, as it was told to us: the summed probability of the tokens that complete the bytes owed.
Ours: what is owed at a row are the bytes of the text's next target token, so that one event serves every source and rule, and the
slots outside it stay as they are; where no slot completes them there is no event.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass
class Completions:
    """The ids of a vocabulary in the order of their bytes: those that begin with the bytes of id i are a piece of it.

    They are `order[first[i] : last[i]]`, none for an id without bytes; `place[i]` is its own place, -1 where it has none.
    """

    order: Int[Tensor, " M"]
    place: Int[Tensor, " V"]
    first: Int[Tensor, " V"]
    last: Int[Tensor, " V"]

    def to(self, device: torch.device) -> "Completions":
        return Completions(*(x.to(device) for x in (self.order, self.place, self.first, self.last)))


def completions(token_bytes: Sequence[bytes | None]) -> Completions:
    """Of a vocabulary by its bytes; None or nothing: the id stands for no text."""
    order = sorted((i for i, piece in enumerate(token_bytes) if piece), key=lambda i: (token_bytes[i], i))
    pieces = [token_bytes[i] or b"" for i in order]
    place, first, last = (np.full(len(token_bytes), value) for value in (-1, 0, 0))
    place[order] = np.arange(len(order))
    first[order] = [bisect_left(pieces, piece) for piece in pieces]
    last[order] = [bisect_left(pieces, beyond) if (beyond := _beyond(piece)) else len(pieces) for piece in pieces]
    return Completions(torch.tensor(order, dtype=torch.int64), *(torch.from_numpy(x) for x in (place, first, last)))


def _beyond(piece: bytes) -> bytes:
    """The first bytes that come after all that begin with these; none where nothing does."""
    stem = piece.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


@dataclass
class Event:
    """On some of N rows one bucket of several tokens: slots among them, and the cells of the logits that no slot holds."""

    in_slots: Bool[Tensor, "N K"]
    rows: Int[Tensor, " cells"]
    ids: Int[Tensor, " cells"]
    share: Float[Tensor, " cells"]  # of each cell among those of its row
    log_sum: Float[Tensor, "N 1"]  # of the exponentials of a row's cells; the least number where it has none
    cells: Int[Tensor, " N"]

    @property
    def happens(self) -> Bool[Tensor, " N"]:
        return self.in_slots.any(1)

    def write_(self, logits: Float[Tensor, "N V"], of_row: Float[Tensor, "N 1"]) -> None:
        """Give each cell its share of what its row's cells have."""
        logits[self.rows, self.ids] = self.share * of_row[self.rows, 0]


def take_event_(
    logits: Float[Tensor, "N V"],
    gold: Int[Tensor, "N 1"],
    slot_ids: Int[Tensor, "N K"],
    is_slot: Bool[Tensor, "N K"],
    sets: Completions,
) -> Event:
    """The event of each row, whose cells are set to the least number; the slots' own cells must be there already."""
    least, (first, last) = torch.finfo(logits.dtype).min, (part[gold] for part in (sets.first, sets.last))
    place = sets.place[slot_ids]
    in_slots = is_slot & (place >= first) & (place < last)
    counts = ((last - first)[:, 0] * in_slots.any(1)).long()
    rows = torch.repeat_interleave(counts)
    begins = counts.cumsum(0) - counts
    ids = sets.order[torch.arange(len(rows), device=rows.device) - begins[rows] + first[rows, 0]]
    kept = (ids < logits.shape[1]) & (logits[rows, ids.clamp(max=logits.shape[1] - 1)] > least)
    rows, ids = rows[kept], ids[kept]
    values = logits[rows, ids]
    logits[rows, ids] = least
    top = torch.full_like(logits[:, 0], least).scatter_reduce(0, rows, values, "amax")
    share = (values - top[rows]).exp()
    total = torch.zeros_like(top).index_add(0, rows, share)
    cells = torch.zeros_like(counts).index_add(0, rows, torch.ones_like(rows))
    log_sum = torch.where(cells > 0, top + total.clamp(min=1.0).log(), least)[:, None]
    return Event(in_slots, rows, ids, share / total[rows], log_sum, cells)
