"""What becomes of several candidates that land on one target id?"""

from typing import no_type_check

import numpy as np
from jaxtyping import Float32, Float64, Int

from knowfuse.compiled import compiled, compiled_part
from knowfuse.types import TopK


def merge_duplicates(
    ids: Int[np.ndarray, "T C"], mass: Float64[np.ndarray, "T C"]
) -> tuple[TopK[np.ndarray], Float32[np.ndarray, " T"]]:
    """The mass of equal ids of each row summed in the first slot of each, and the tail: what is left of 1.

    The mass of an id of -1 belongs to the tail; a mass of 0 or less makes no slot.
    """
    merged, summed = _merge(ids, mass)
    tail = np.clip(1.0 - summed.sum(-1), 0.0, 1.0).astype(np.float32)
    return TopK(merged, log_of(summed)), tail


def log_of(probs: Float64[np.ndarray, "T C"]) -> Float32[np.ndarray, "T C"]:
    """The natural logs; -inf, an empty slot, for 0."""
    with np.errstate(divide="ignore"):
        return np.log(probs.astype(np.float32))


def drop_duplicates(ids: Int[np.ndarray, "T C"], mass: Float64[np.ndarray, "T C"]) -> Float64[np.ndarray, "T C"]:
    """The mass with 0 for all but the most probable candidate of each id of a row (ties: the first)."""
    return _drop(ids, mass)


@compiled
@no_type_check
def _merge(ids, mass):
    num_rows, width = ids.shape
    merged, summed = np.zeros((num_rows, width), dtype=np.int64), np.zeros((num_rows, width))
    table = new_table(width)
    for t in range(num_rows):
        table[:] = -1
        count = 0
        for c in range(width):
            if ids[t, c] >= 0 and mass[t, c] > 0.0:
                slot = slot_of(table, merged[t], count, ids[t, c])
                count += slot == count
                summed[t, slot] += mass[t, c]
    return merged, summed


@compiled
@no_type_check
def _drop(ids, mass):
    num_rows, width = ids.shape
    kept, seen = np.zeros((num_rows, width)), np.empty(width, dtype=np.int64)
    best, table = np.empty(width, dtype=np.int64), new_table(width)
    for t in range(num_rows):
        table[:] = -1
        count = 0
        for c in range(width):
            slot = slot_of(table, seen, count, ids[t, c])
            if slot == count:
                best[slot], count = c, count + 1
            elif mass[t, c] > mass[t, best[slot]]:
                best[slot] = c
        for slot in range(count):
            kept[t, best[slot]] = mass[t, best[slot]]
    return kept


@compiled_part
@no_type_check
def new_table(width):
    """An open-address hash table with room for `width` ids; -1 everywhere is empty."""
    size = 4
    while size < 2 * width:
        size *= 2
    return np.empty(size, dtype=np.int16)


@compiled_part
@no_type_check
def slot_of(table, ids, count, wanted):
    """The slot of an id among the `count` ids so far; `count`, where it is then put, if it is new."""
    mask = len(table) - 1
    at = (wanted * 0x9E3779B1 >> 7) & mask
    while table[at] >= 0:
        if ids[table[at]] == wanted:
            return table[at]
        at = (at + 1) & mask
    table[at] = count
    ids[count] = wanted
    return count
