"""What did a source say on a row, of which tokens, and of which classes is its mass?"""

from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float32, Float64, Int64

from knowfuse.compiled import compiled_part
from knowfuse.types import MASS_CLASSES

EXACT, PREFIX, CHAINED, AMBIGUOUS, UNMAPPED, TAIL = range(len(MASS_CLASSES))


class Said(NamedTuple):
    """What the source said, in arrays."""

    ids: Int64[np.ndarray, " U"]
    ends: Int64[np.ndarray, " U"]
    kept_ids: Int64[np.ndarray, "U K"]
    kept_probs: Float64[np.ndarray, "U K"]
    gold_probs: Float64[np.ndarray, " U"]  # of the token after each row
    nll: Float32[np.ndarray, " U"]


@compiled_part
@no_type_check
def candidates(said, row, ids, weights):
    """All that a source row said, and the gold token where it did not."""
    count, gold_seen = 0, False
    for c in range(said.kept_ids.shape[1]):
        if said.kept_probs[row, c] > 0.0:
            ids[count], weights[count] = said.kept_ids[row, c], said.kept_probs[row, c]
            gold_seen = gold_seen or ids[count] == said.ids[row + 1]
            count += 1
    if not gold_seen:
        ids[count], weights[count] = said.ids[row + 1], said.gold_probs[row]
        count += 1
    return count
