"""Rows that give each candidate to the target token that its bytes begin with, as if the text were cut after it."""

from typing import no_type_check

import numpy as np

from knowfuse.alignment.byte_places import (
    ENDS_HERE,
    code_of,
    hear,
    keep_cut_so,
    keep_starting_with,
    nothing_heard,
    place,
)
from knowfuse.alignment.duplicates import new_table, slot_of
from knowfuse.alignment.gold_chain import chain
from knowfuse.alignment.row_classes import serving_rows
from knowfuse.alignment.said import AMBIGUOUS, EXACT, PREFIX, TAIL, UNMAPPED
from knowfuse.alignment.spent import has_eos
from knowfuse.compiled import ZERO, compiled_part


@compiled_part
@no_type_check
def rows_as_cut(said, read, tokens, roles, to):
    """Every row that the source says something of; a true token of several source tokens has the product along the gold chain."""
    rows = serving_rows(said.ends, read.ends)
    divisors, gold_went = _give_to_first_tokens(said, read, rows, tokens, roles, to)
    chain(said, read, rows, divisors, gold_went, to)


@compiled_part
@no_type_check
def _give_to_first_tokens(said, read, rows, tokens, roles, to):
    """Each candidate to the first target token of what remains of it; `rows` [T] are the source rows that serve the target's.

    What each row was divided by, 0 where it is not aligned, and of its gold token where that went: the slot (-1: none), the
    class, how many slots the row has.
    """
    num_rows, k = len(read.ids), said.kept_ids.shape[1]
    divisors, gold_went = np.ones(num_rows), np.zeros((num_rows, 3), dtype=np.int64)
    said_has_eos, read_has_eos = has_eos(said.ends), has_eos(read.ends)
    heard, table = nothing_heard(k), new_table(to.ids.shape[1])
    for t in range(num_rows - 1):
        predicts_eos = read_has_eos and t == num_rows - 2
        if predicts_eos and not said_has_eos:
            continue
        at = place(said, read, rows[t], tokens, t, predicts_eos)
        if heard.row[0] != at.row:
            hear(said, at.row, heard)
        elif t == 1 or read.ends[t] > read.ends[t - 1]:
            keep_cut_so(read.ids[t], at.gold, heard)
        keep_starting_with(at, read.data, tokens, heard)
        table[:] = -1
        count, total, gold_slot, gold_class = ZERO, 0.0, -1, UNMAPPED
        for c in range(heard.size[0]):
            candidate, p = heard.ids[c], heard.weights[c]
            code = code_of(candidate, at.residual, t == 0, tokens)
            heard.reads[c] = code >> 1
            total += p
            first, kind = _first_token(candidate, code, at, read, roles)
            to.budget[t, kind] += p
            slot = -1
            if first >= 0:
                slot = slot_of(table, to.ids[t], count, first)
                count += slot == count
                to.probs[t, slot] += p
            if candidate == at.gold:
                gold_slot, gold_class = slot, kind
        gold_went[t, 0], gold_went[t, 1], gold_went[t, 2] = gold_slot, gold_class, count
        divisors[t] = _divide(to, t, count, total, at.is_conditioned)
    return divisors, gold_went


@compiled_part
@no_type_check
def _first_token(candidate, code, at, read, roles):
    """The target token that what remains of a candidate begins with (-1: none), and the class of its mass."""
    if candidate == roles.source_eos and at.residual == 0 and roles.target_eos >= 0:
        return roles.target_eos, EXACT
    if candidate == at.gold and at.is_text and at.gold_end >= read.ends[at.t + 1]:  # the true next token was seen
        return read.ids[at.t + 1], EXACT if at.gold_end == read.ends[at.t + 1] else PREFIX
    if code < 0:
        return -1, AMBIGUOUS if code == ENDS_HERE else UNMAPPED
    return code >> 1, EXACT if code & 1 else PREFIX


@compiled_part
@no_type_check
def _divide(to, t, count, total, is_conditioned):
    """Makes a row's mass 1, where it has some; what it was divided by."""
    to.is_conditioned[t] = is_conditioned
    tail = 0.0 if is_conditioned else max(1.0 - total, 0.0)
    divisor = total if is_conditioned else 1.0
    if divisor > 0.0:
        to.is_aligned[t] = True
        to.budget[t, TAIL] = tail
        for slot in range(count):  # numba takes seconds to compile what an array operation says of wrong shapes
            to.probs[t, slot] /= divisor
        for kind in range(to.budget.shape[1]):
            to.budget[t, kind] /= divisor
    return divisor
