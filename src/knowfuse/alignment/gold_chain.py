"""Where nothing looks ahead: what a true target token gets that spans several source tokens."""

from typing import no_type_check

import numpy as np

from knowfuse.alignment.row_classes import last_before
from knowfuse.alignment.said import CHAINED
from knowfuse.alignment.spent import has_eos, paid_up_to
from knowfuse.compiled import compiled_part


@compiled_part
@no_type_check
def chain(said, read, rows, divisors, gold_went, to):
    """Where the true next target token runs on beyond the gold token: the product of what the source gave along it.

    Where its end lies within a source token, the product includes what the target's next row was divided by.
    """
    paid, read_has_eos = paid_up_to(said.nll), has_eos(read.ends)
    ends = said.ends[: len(said.ends) - has_eos(said.ends)]
    boundaries = last_before(ends, read.ends[1:])  # the last to end with the true one or before
    for t in range(len(read.ids) - 1):
        row, next_end = rows[t], read.ends[t + 1]
        predicts_eos = read_has_eos and t == len(read.ids) - 2
        if not to.is_aligned[t] or predicts_eos or said.ends[row + 1] >= next_end:
            continue
        slot, kind, count = gold_went[t]
        owed = divisors[t + 1] if next_end > said.ends[boundaries[t]] else 1.0
        chained = np.exp(paid[row] - paid[boundaries[t]]) * owed / divisors[t]
        # It is taken off the shorter piece that the gold token was mapped to.
        chained = min(chained, said.gold_probs[row] / divisors[t])
        to.budget[t, kind] = max(to.budget[t, kind] - chained, 0.0)
        if slot >= 0:
            to.probs[t, slot] = max(to.probs[t, slot] - chained, 0.0)
        to.budget[t, CHAINED] = chained
        label_slot = count
        for s in range(count):
            if to.ids[t, s] == read.ids[t + 1]:
                label_slot = s
        to.ids[t, label_slot] = read.ids[t + 1]
        to.probs[t, label_slot] += chained
