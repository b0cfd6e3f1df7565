"""Where the rows of a target lie in what a source said, and which of its candidates go on as the target has read."""

from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from knowfuse.alignment.said import candidates
from knowfuse.compiled import compiled_part

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
    row: int  # of the source
    gold: int  # the source's token after that row
    begin: int  # the byte where that begins
    gold_end: int
    lead: int  # spaces that it begins with and the text has not
    residual: int  # bytes of it that the target has read, those spaces among them
    is_text: bool  # the target goes on to read some of it
    is_later: bool  # it begins after what the target has read
    is_conditioned: bool


class Heard(NamedTuple):
    """The candidates of a source row that a row of the target still has, in the first places, and what the target reads of each."""

    ids: Int64[np.ndarray, " K_1"]
    weights: Float64[np.ndarray, " K_1"]
    reads: Int64[np.ndarray, " K_1"]  # a token; below 0: none
    kinds: Int64[np.ndarray, " K_1"]  # the class of its mass
    size: Int64[np.ndarray, "1"]
    row: Int64[np.ndarray, "1"]  # -1: none yet


class Aligned(NamedTuple):
    """The rows as they come to be; conditioned ones go on inside a source token, or after a space that it has and the text has not.

    `given` are the nats that a row takes as known of its true next token.
    """

    ids: Int64[np.ndarray, "T C"]
    probs: Float64[np.ndarray, "T C"]
    budget: Float64[np.ndarray, "T 6"]
    given: Float64[np.ndarray, " T"]
    is_aligned: Bool[np.ndarray, " T"]
    is_conditioned: Bool[np.ndarray, " T"]


@compiled_part
@no_type_check
def nothing_heard(k):
    """Room for the candidates of a row of K tokens."""
    ids, reads, kinds = np.empty((3, k + 1), np.int64)
    return Heard(ids, np.empty(k + 1), reads, kinds, np.zeros(1, np.int64), np.full(1, -1))


@compiled_part
@no_type_check
def hear(said, row, heard):
    """All candidates of a source row."""
    heard.size[0], heard.row[0] = candidates(said, row, heard.ids, heard.weights), row


@compiled_part
@no_type_check
def place(said, read, row, tokens, t, predicts_eos):
    """Row t of the target in a row of the source."""
    end = read.ends[t]
    gold, gold_end, begin = said.ids[row + 1], said.ends[row + 1], said.ends[row]
    # A source token may lead with a space that the text has not (the one put before a document; WordPiece after
    # punctuation). Its row said the token with that space: it is consumed there, a residual like any other.
    gold_length = tokens.starts[gold + 1] - tokens.starts[gold]
    lead = gold_length - (gold_end - begin)
    residual, is_later = max(end - begin, 0) + lead, begin > end
    is_text = gold_length > residual and not predicts_eos
    # Some targets begin a text with a lone space that it has not: the row after it goes on with what is cut so.
    is_conditioned = not is_later and (residual > 0 or (end == read.ends[0] and t > 0))
    return Place(t, row, gold, begin, gold_end, lead, residual, is_text, is_later, is_conditioned)


@compiled_part
@no_type_check
def code_of(candidate, residual, is_first, tokens):
    """`FirstTokens` of what remains of a candidate; ENDS_HERE: nothing does."""
    at = tokens.starts[candidate] + residual
    if residual == 0 and not is_first:
        return tokens.whole[candidate]
    if tokens.starts[candidate + 1] > at:
        return tokens.at_start[at] if is_first else tokens.inside[at]
    return ENDS_HERE if residual > 0 else -1


@compiled_part
@no_type_check
def keep_cut_so(read_id, gold, heard):
    """Keeps those candidates of which the target reads the token that it has read, and the gold one."""
    count = 0
    for c in range(heard.size[0]):
        if heard.ids[c] == gold or heard.reads[c] == read_id:
            heard.ids[count], heard.weights[count] = heard.ids[c], heard.weights[c]
            count += 1
    heard.size[0] = count


@compiled_part
@no_type_check
def keep_starting_with(at, data, tokens, heard):
    """Keeps those candidates that begin with `lead` spaces and the text from `begin` on, `residual` bytes in all."""
    if at.residual == 0:
        return
    count = 0
    for c in range(heard.size[0]):
        start = tokens.starts[heard.ids[c]]
        is_so = tokens.starts[heard.ids[c] + 1] >= start + at.residual
        n = 0
        while is_so and n < at.residual:
            is_so = tokens.pieces[start + n] == (32 if n < at.lead else data[at.begin + n - at.lead])
            n += 1
        if is_so:
            heard.ids[count], heard.weights[count] = heard.ids[c], heard.weights[c]
            count += 1
    heard.size[0] = count
