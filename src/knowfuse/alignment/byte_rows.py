"""The arithmetic of `byte_exact`, a row of the target after the other: who is asked, what it gives to whom."""

from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from knowfuse.alignment.duplicates import new_table, slot_of
from knowfuse.alignment.first_tokens import FirstTokens
from knowfuse.alignment.gold_chain import chain
from knowfuse.alignment.look_ahead import keep_what_stays, look_ahead, new_seen
from knowfuse.alignment.own_cuts import OwnCuts
from knowfuse.alignment.row_classes import serving_rows
from knowfuse.alignment.said import AMBIGUOUS, EXACT, PREFIX, TAIL, UNMAPPED, Said, candidates
from knowfuse.alignment.spent import has_eos
from knowfuse.alignment.texts import Texts
from knowfuse.compiled import ZERO, compiled, compiled_part
from knowfuse.types import MASS_CLASSES, SourceTrace, TokenizedDocument

LOOKED_AHEAD = 16  # slots for the tokens that the gold one may begin
ENDS_HERE = -2  # in place of a first target token: the candidate is r, what would follow it is unknown


class Read(NamedTuple):
    """What the target reads, in arrays."""

    ids: Int64[np.ndarray, " T"]
    ends: Int64[np.ndarray, " T"]
    data: UInt8[np.ndarray, " bytes"]


class Roles(NamedTuple):
    """Special tokens map by role; -1 where a tokenizer has none."""

    source_eos: int
    target_eos: int


class Place(NamedTuple):
    """A row of the target, and where it is in what the source said."""

    t: int
    row: int  # of the source, which serves it
    gold: int  # the source's token after that row
    begin: int  # the byte where that begins
    gold_end: int
    lead: int  # spaces that it begins with and the text has not
    residual: int  # bytes of it that the target has read, those spaces among them
    is_text: bool  # the target goes on to read some of it
    is_conditioned: bool


class Alive(NamedTuple):
    """The candidates that a row still has, in the first places, and the `FirstTokens` of what remains of each."""

    ids: Int64[np.ndarray, " K_1"]
    weights: Float64[np.ndarray, " K_1"]
    codes: Int64[np.ndarray, " K_1"]


class Aligned(NamedTuple):
    """The rows as they come to be; conditioned ones go on inside a source token, or after a space that it has and the text has not."""

    ids: Int64[np.ndarray, "T C"]
    probs: Float64[np.ndarray, "T C"]
    budget: Float64[np.ndarray, "T 6"]
    is_aligned: Bool[np.ndarray, " T"]
    is_conditioned: Bool[np.ndarray, " T"]


def aligned_rows(
    trace: SourceTrace,
    target: TokenizedDocument,
    data: bytes,
    tokens: FirstTokens,
    roles: Roles,
    texts: Texts,
    cuts: OwnCuts | None,
) -> Aligned:
    """Every row of the target document, C = K + 2: the K kept candidates, the gold one, the chained one.

    With `cuts` the rows after the gold candidate's say how it goes on, in `LOOKED_AHEAD` more slots.
    """
    said = Said(
        trace.input_ids,
        trace.ends,
        np.ascontiguousarray(trace.topk.ids),
        np.exp(trace.topk.log_probs, dtype=np.float64),
        np.exp(-trace.nll, dtype=np.float64),
        trace.nll,
    )
    read = Read(target.input_ids, target.ends, np.frombuffer(data, dtype=np.uint8))
    num_rows, num_slots = len(target.ends), trace.topk.ids.shape[1] + 2 + (0 if cuts is None else LOOKED_AHEAD)
    while True:
        to = _no_rows(num_rows, num_slots)
        longer, known = (None, None) if cuts is None else (cuts.longer, cuts.known)
        _align(said, read, tokens, roles, texts, to, longer, known)
        if cuts is None or not cuts.ask():  # all that had to be known was
            return to


def _no_rows(num_rows: int, num_slots: int) -> Aligned:
    return Aligned(
        np.zeros((num_rows, num_slots), dtype=np.int64),
        np.zeros((num_rows, num_slots)),
        np.zeros((num_rows, len(MASS_CLASSES))),
        np.zeros(num_rows, dtype=np.bool_),
        np.zeros(num_rows, dtype=np.bool_),
    )


@compiled
@no_type_check
def _align(said, read, tokens, roles, texts, to, longer, known):
    for m in range(len(texts.source) - 1):
        s, t = slice(texts.source[m], texts.source[m + 1]), slice(texts.target[m], texts.target[m + 1])
        its = Said(said.ids[s], said.ends[s], said.kept_ids[s], said.kept_probs[s], said.gold_probs[s], said.nll[s])
        its_read = Read(read.ids[t], read.ends[t], read.data)
        its_rows = Aligned(to.ids[t], to.probs[t], to.budget[t], to.is_aligned[t], to.is_conditioned[t])
        if len(its.ends) > 1:
            rows = serving_rows(its.ends, its_read.ends)
            divisors, gold_went = _give_to_first_tokens(its, its_read, rows, tokens, roles, its_rows, longer, known)
            if longer is None:
                chain(its, its_read, rows, divisors, gold_went, its_rows)


@compiled_part
@no_type_check
def _give_to_first_tokens(said, read, rows, tokens, roles, to, longer, known):
    """Each candidate to the first target token of what remains of it; `rows` [T] are the source rows that serve the target's.

    What each row was divided by, 0 where it is not aligned, and of its gold token where that went: the slot (-1: none), the
    class, how many slots the row has.
    """
    num_rows, k = len(read.ids), said.kept_ids.shape[1]
    divisors, gold_went = np.ones(num_rows), np.zeros((num_rows, 3), dtype=np.int64)
    said_has_eos, read_has_eos = has_eos(said.ends), has_eos(read.ends)
    alive = Alive(np.empty(k + 1, np.int64), np.empty(k + 1), np.empty(k + 1, np.int64))
    num_alive, table, seen = ZERO, new_table(to.ids.shape[1]), new_seen(k)
    for t in range(num_rows - 1):
        predicts_eos = read_has_eos and t == num_rows - 2
        if predicts_eos and not said_has_eos:
            continue
        at = _place(said, read, rows, tokens, t, predicts_eos)
        num_alive, staying = _keep_alive(at, said, read, rows, tokens, longer, known, seen, alive, num_alive)
        table[:] = -1
        count, total, gold_slot, gold_class, gold_weight = ZERO, 0.0, -1, UNMAPPED, 0.0
        looks_ahead = longer is not None and at.is_text and at.gold_end <= read.ends[t + 1]
        for c in range(num_alive):
            candidate, p = alive.ids[c], alive.weights[c]
            alive.codes[c] = _code(candidate, at.residual, t == 0, tokens)
            total += p
            if candidate == at.gold and looks_ahead:
                gold_weight = p
                continue
            first, kind, guessed = _first_token(candidate, alive.codes[c], at, read, roles)
            if longer is not None and guessed and kind == EXACT:
                unknown = p * (1.0 - longer.stays[tokens.starts[candidate] + at.residual])
                to.budget[t, AMBIGUOUS] += unknown
                p -= unknown
            to.budget[t, kind] += p
            slot = -1
            if first >= 0:
                slot = slot_of(table, to.ids[t], count, first)
                count += slot == count
                to.probs[t, slot] += p
            if candidate == at.gold:
                gold_slot, gold_class = slot, kind
        if looks_ahead:
            count = look_ahead(
                said, read, t, at.row, at.residual, gold_weight, tokens, longer, known, seen, table, count, to
            )
        gold_went[t, 0], gold_went[t, 1], gold_went[t, 2] = gold_slot, gold_class, count
        divisors[t] = _divide(to, t, count, total, staying, at.is_conditioned)
    return divisors, gold_went


@compiled_part
@no_type_check
def _place(said, read, rows, tokens, t, predicts_eos):
    row, end = rows[t], read.ends[t]
    gold, gold_end, begin = said.ids[row + 1], said.ends[row + 1], said.ends[row]
    # A source token may lead with a space that the text has not (the one put before a document; WordPiece after
    # punctuation). Its row said the token with that space: it is consumed there, a residual like any other.
    gold_length = tokens.starts[gold + 1] - tokens.starts[gold]
    lead = gold_length - (gold_end - begin)
    residual = end - begin + lead
    is_text = gold_length > residual and not predicts_eos
    # Some targets begin a text with a lone space that it has not: the row after it goes on with what is cut so.
    is_conditioned = residual > 0 or (end == read.ends[0] and t > 0)
    return Place(t, row, gold, begin, gold_end, lead, residual, is_text, is_conditioned)


@compiled_part
@no_type_check
def _keep_alive(at, said, read, rows, tokens, longer, known, seen, alive, num_alive):
    """Keeps the candidates that go on as the target has read on, and the gold one. How many, and what share of the mass of a boundary's."""
    t, staying = at.t, 1.0
    if t == 0 or rows[t - 1] != at.row:
        num_alive = candidates(said, at.row, alive.ids, alive.weights)
    elif t == 1 or read.ends[t] > read.ends[t - 1]:
        num_alive = _cut_so(read.ids[t], at.gold, alive, num_alive)
        seen.of[0] = -1
    if at.residual > 0:
        num_alive = _starting_with(at, read.data, tokens, alive, num_alive)
    if longer is not None and at.residual == 0:
        num_alive, staying = keep_what_stays(
            read.ids[t], at.row, at.gold, tokens, longer, known, seen, alive.ids, alive.weights, num_alive
        )
    return num_alive, staying


@compiled_part
@no_type_check
def _first_token(candidate, code, at, read, roles):
    """The target token that what remains of a candidate begins with (-1: none), the class of its mass, whether it is guessed."""
    if candidate == roles.source_eos and at.residual == 0 and roles.target_eos >= 0:
        return roles.target_eos, EXACT, False
    if candidate == at.gold and at.is_text and at.gold_end >= read.ends[at.t + 1]:  # the true next token was seen
        return read.ids[at.t + 1], EXACT if at.gold_end == read.ends[at.t + 1] else PREFIX, False
    if code < 0:
        return -1, AMBIGUOUS if code == ENDS_HERE else UNMAPPED, False
    return code >> 1, EXACT if code & 1 else PREFIX, True


@compiled_part
@no_type_check
def _divide(to, t, count, total, staying, is_conditioned):
    """Makes a row's mass 1, where it has some; what it was divided by."""
    to.is_conditioned[t] = is_conditioned
    tail = 0.0 if is_conditioned else max(staying - total, 0.0)  # of what is not kept, as much stays
    divisor = total + tail if is_conditioned or staying < 1.0 else 1.0
    if divisor > 0.0:
        to.is_aligned[t] = True
        to.budget[t, TAIL] = tail
        for slot in range(count):  # numba takes seconds to compile what an array operation says of wrong shapes
            to.probs[t, slot] /= divisor
        for kind in range(to.budget.shape[1]):
            to.budget[t, kind] /= divisor
    return divisor


@compiled_part
@no_type_check
def _code(candidate, residual, is_first, tokens):
    """`FirstTokens` of what remains of a candidate; ENDS_HERE: nothing does."""
    place = tokens.starts[candidate] + residual
    if residual == 0 and not is_first:
        return tokens.whole[candidate]
    if tokens.starts[candidate + 1] > place:
        return tokens.at_start[place] if is_first else tokens.inside[place]
    return ENDS_HERE if residual > 0 else -1


@compiled_part
@no_type_check
def _cut_so(read, gold, alive, num_alive):
    """Keeps those candidates whose next token, as the target cuts them, is the one that it has read, and the gold one."""
    count = 0
    for c in range(num_alive):
        if alive.ids[c] == gold or alive.codes[c] >> 1 == read:
            alive.ids[count], alive.weights[count] = alive.ids[c], alive.weights[c]
            count += 1
    return count


@compiled_part
@no_type_check
def _starting_with(at, data, tokens, alive, num_alive):
    """Keeps those candidates that begin with `lead` spaces and the text from `begin` on, `residual` bytes in all."""
    count = 0
    for c in range(num_alive):
        start = tokens.starts[alive.ids[c]]
        is_so = tokens.starts[alive.ids[c] + 1] >= start + at.residual
        n = 0
        while is_so and n < at.residual:
            is_so = tokens.pieces[start + n] == (32 if n < at.lead else data[at.begin + n - at.lead])
            n += 1
        if is_so:
            alive.ids[count], alive.weights[count] = alive.ids[c], alive.weights[c]
            count += 1
    return count
