"""What becomes of several candidates that land on one target id?"""

import numpy as np
from jaxtyping import Float32, Float64, Int

from knowfuse.types import TopK


def merge_duplicates(
    ids: Int[np.ndarray, "T C"], mass: Float64[np.ndarray, "T C"]
) -> tuple[TopK[np.ndarray], Float32[np.ndarray, " T"]]:
    """The mass of equal ids of each row summed in the first slot of each, and the tail: what is left of 1.

    The mass of an id of -1 belongs to the tail; a mass of 0 or less makes no slot.
    """
    same = ids[:, :, None] == ids[:, None, :]
    is_first = same.argmax(-1) == np.arange(ids.shape[-1])
    summed = np.einsum("tij,tj->ti", same, np.maximum(mass, 0.0))
    summed = np.where(is_first & (ids >= 0), summed, 0.0)
    tail = np.clip(1.0 - summed.sum(-1), 0.0, 1.0).astype(np.float32)
    with np.errstate(divide="ignore"):
        log_probs = np.log(summed).astype(np.float32)
    return TopK(np.where(summed > 0, ids, 0), log_probs), tail


def drop_duplicates(ids: Int[np.ndarray, "T C"], mass: Float64[np.ndarray, "T C"]) -> Float64[np.ndarray, "T C"]:
    """The mass with 0 for all but the most probable candidate of each id of a row (ties: the first)."""
    same = ids[:, :, None] == ids[:, None, :]
    best = np.where(same, mass[:, None, :], -1.0).argmax(-1)
    return np.where(best == np.arange(ids.shape[-1]), mass, 0.0)
