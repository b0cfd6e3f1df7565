"""Rows that take as known in which of the source's tokens the true next target token ends."""

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
from knowfuse.alignment.longer import (
    NONE,
    NOWHERE,
    UNKNOWN,
    UNUSABLE,
    begins_with,
    goes_on_with,
    may_go_on,
    walk,
    walk_text,
)
from knowfuse.alignment.own_cuts import own_cut
from knowfuse.alignment.row_classes import last_before, serving_rows
from knowfuse.alignment.said import CHAINED, EXACT, PREFIX, TAIL, UNMAPPED
from knowfuse.alignment.spent import has_eos, paid_up_to
from knowfuse.compiled import ZERO, compiled_part

ASKED = 1e-3  # the smallest probability of a candidate about which the target's tokenizer is asked


@compiled_part
@no_type_check
def look_ahead(said, read, tokens, roles, longer, known, to):
    """Every row that the source says something of."""
    num_rows, k = len(read.ids), said.kept_ids.shape[1]
    said_has_eos, read_has_eos = has_eos(said.ends), has_eos(read.ends)
    begins, ends, paid = serving_rows(said.ends, read.ends), _rows_of_ends(said, read), paid_up_to(said.nll)
    heard, following, table = nothing_heard(k), nothing_heard(k), new_table(to.ids.shape[1])
    for t in range(num_rows - 1):
        predicts_eos = read_has_eos and t == num_rows - 2
        if predicts_eos and not said_has_eos:
            continue
        at, node = place(said, read, begins[t], tokens, t, predicts_eos), np.int64(NOWHERE)
        _hear_what_goes_on(at, said, read, tokens, longer, known, heard)
        if ends[t] != at.row:
            of_gold = _share(_of(at.gold, heard), _mass(heard)) * (1.0 - _not_kept(said, at))
            to.given[t] = paid[ends[t]] - paid[at.row + 1] - np.log(of_gold)
            at = place(said, read, ends[t], tokens, t, predicts_eos)
            node = walk_text(longer, read.data, read.ends[t], at.begin, longer.begins[int(t == 0)])
            hear(said, at.row, heard)
            keep_starting_with(at, read.data, tokens, heard)
        mass, stays = _mass(heard), 1.0
        ends_whole = at.is_text and at.gold_end == read.ends[t + 1] and at.row + 2 < len(said.ends)
        if ends_whole:  # the source's next row tells how often the true next token goes on
            stays = _hear_what_stays(at.row + 1, read.ids[t + 1], said, tokens, longer, known, following)
        if at.is_later:
            _read_on(at, node, stays, read, tokens, longer, known, heard)
        else:
            _read_first(at, stays, read, tokens, roles, longer, heard)
        total = _give(t, heard, table, to)
        _divide(to, t, total, mass, _not_kept(said, at))
        if ends_whole:
            heard, following = following, heard


@compiled_part
@no_type_check
def _rows_of_ends(said, read):
    """The source row [T] after which the token comes that the end of each row's next target token lies in."""
    wanted = read.ends.copy()
    wanted[:-1] = np.maximum(read.ends[1:] - 1, read.ends[:-1])
    return last_before(said.ends[:-1], wanted)


@compiled_part
@no_type_check
def _hear_what_goes_on(at, said, read, tokens, longer, known, heard):
    """The candidates of a serving row that go on as the target has read on, and the gold one."""
    t = at.t
    if heard.row[0] != at.row:
        if at.residual == at.lead:
            _hear_what_stays(at.row, read.ids[t], said, tokens, longer, known, heard)
        else:
            hear(said, at.row, heard)
    elif t == 1 or read.ends[t] > read.ends[t - 1]:
        keep_cut_so(read.ids[t], at.gold, heard)
    keep_starting_with(at, read.data, tokens, heard)


@compiled_part
@no_type_check
def _hear_what_stays(row, read_id, said, tokens, longer, known, heard):
    """The candidates after which the target still reads the token that it has read, and the gold one; their share of the mass."""
    hear(said, row, heard)
    heard.reads[:] = read_id
    node, gold = np.int64(longer.node[read_id]), said.ids[row + 1]
    leads = tokens.starts[gold + 1] - tokens.starts[gold] > said.ends[row + 1] - said.ends[row]
    if node == 0 or leads or not may_go_on(longer, node):
        return 1.0
    begins, mass, count = goes_on_with(longer, node), _mass(heard), ZERO
    for c in range(heard.size[0]):
        candidate, p = heard.ids[c], heard.weights[c]
        goes_on = False
        if candidate != gold and begins_with(tokens, candidate, ZERO, begins):
            goes_on = becomes(longer, known, tokens, candidate, ZERO, node, p) not in (read_id, NONE)
        if not goes_on:
            heard.ids[count], heard.weights[count] = candidate, p
            count += 1
    heard.size[0] = count
    return _share(_mass(heard), mass)


@compiled_part
@no_type_check
def _read_first(at, stays, read, tokens, roles, longer, heard):
    """What the target reads first of what remains of each candidate, and of the mass the share that ends there (`stays`: the gold one's).

    NONE: nothing remains; UNUSABLE: no token begins so.
    """
    for c in range(heard.size[0]):
        candidate, kind, share = heard.ids[c], UNMAPPED, 1.0
        code = np.int64(code_of(candidate, at.residual, at.t == 0, tokens))
        token = np.int64(NONE if code == ENDS_HERE else UNUSABLE)
        if candidate == roles.source_eos and at.residual == 0 and roles.target_eos >= 0:
            token, kind = np.int64(roles.target_eos), EXACT
        elif candidate == at.gold and at.is_text:  # the true next token was seen
            token, kind, share = np.int64(read.ids[at.t + 1]), PREFIX, stays
            if at.gold_end == read.ends[at.t + 1]:
                kind = EXACT
        elif code >= 0:
            token, kind = code >> 1, PREFIX
            if code & 1:
                kind, share = EXACT, np.float64(longer.stays[tokens.starts[candidate] + at.residual])
        heard.reads[c], heard.kinds[c] = token, kind
        heard.weights[c] *= share


@compiled_part
@no_type_check
def _read_on(at, node, stays, read, tokens, longer, known, heard):
    """The target token that ends in each candidate, where the bytes at a node were read before, and the share of its mass where it does.

    NONE: it ended before; UNKNOWN: it goes on beyond the candidate.
    """
    begins = goes_on_with(longer, node)
    for c in range(heard.size[0]):
        candidate, token, share = heard.ids[c], np.int64(NONE), 1.0
        if candidate == at.gold and at.is_text:
            token, share = np.int64(read.ids[at.t + 1]), stays
        elif begins_with(tokens, candidate, at.residual, begins):
            token = np.int64(becomes(longer, known, tokens, candidate, at.residual, node, heard.weights[c]))
            if token >= 0:
                end = longer.node[token]
                length = longer.depth[end] - longer.depth[node]
                if length <= 0:
                    token = np.int64(NONE)
                is_whole = length == tokens.starts[candidate + 1] - tokens.starts[candidate] - at.residual
                share = np.float64(longer.ends[candidate]) if is_whole and may_go_on(longer, end) else 1.0
        heard.reads[c], heard.kinds[c] = token, CHAINED if token >= 0 else UNMAPPED
        heard.weights[c] *= share


@compiled_part
@no_type_check
def _give(t, heard, table, to):
    """The mass of each candidate in which the next target token ends to that token; all of it."""
    count, total = ZERO, 0.0
    table[:] = -1
    for c in range(heard.size[0]):
        token, p = heard.reads[c], heard.weights[c]
        if token in (NONE, UNKNOWN):
            continue
        total += p
        to.budget[t, heard.kinds[c]] += p
        if token >= 0:
            slot = slot_of(table, to.ids[t], count, token)
            count += slot == count
            to.probs[t, slot] += p
    return total


@compiled_part
@no_type_check
def becomes(longer, known, tokens, token, skip, node, p):
    """What the target's token at a node becomes, if a source token of probability p follows: what it is (NONE), another, UNKNOWN.

    UNKNOWN: only what follows the source token decides. `skip`: as many bytes of the source token are not in the text.
    """
    last, longest = walk(longer, tokens, token, skip, node)
    if last != NOWHERE and longer.token[last] == NONE:
        return UNKNOWN
    if longest == NONE or skip > 0 or p < ASKED:
        return longest
    return own_cut(known, node * (len(tokens.starts) - 1) + token, longest)


@compiled_part
@no_type_check
def _mass(heard):
    total = 0.0
    for c in range(heard.size[0]):
        total += heard.weights[c]
    return total


@compiled_part
@no_type_check
def _share(part, whole):
    """0 where a source finds a text so improbable that float64 holds nothing of it."""
    return part / whole if whole > 0.0 else 0.0


@compiled_part
@no_type_check
def _of(token, heard):
    """The mass of one candidate."""
    found = 0.0
    for c in range(heard.size[0]):
        if heard.ids[c] == token:
            found = heard.weights[c]
    return found


@compiled_part
@no_type_check
def _not_kept(said, at):
    """The mass of the tokens of a source row that are not kept, and of which none is the gold one; 0 where a row is conditioned."""
    if at.is_conditioned:
        return 0.0
    row = at.row
    kept, gold_seen = 0.0, False
    for c in range(said.kept_ids.shape[1]):
        kept += said.kept_probs[row, c]
        gold_seen = gold_seen or (said.kept_ids[row, c] == at.gold and said.kept_probs[row, c] > 0.0)
    return max(1.0 - kept - (0.0 if gold_seen else said.gold_probs[row]), 0.0)


@compiled_part
@no_type_check
def _divide(to, t, total, mass, tail):
    """Makes a row's mass 1, where it has some: of what is not kept as much is known as of what is."""
    to.given[t] -= np.log(_share(total, mass))
    if total <= 0.0 or not np.isfinite(to.given[t]):
        return
    to.is_aligned[t] = True
    to.budget[t, TAIL] = tail
    scale = (1.0 - tail) / total
    for slot in range(to.probs.shape[1]):
        to.probs[t, slot] *= scale
    for kind in range(TAIL):
        to.budget[t, kind] *= scale
