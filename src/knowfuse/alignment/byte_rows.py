"""The arithmetic of `byte_exact`, a text after the other."""

from typing import no_type_check

import numpy as np

from knowfuse.alignment.as_cut import rows_as_cut
from knowfuse.alignment.byte_places import Aligned, Read, Roles
from knowfuse.alignment.first_tokens import FirstTokens
from knowfuse.alignment.look_ahead import look_ahead
from knowfuse.alignment.own_cuts import OwnCuts
from knowfuse.alignment.said import Said
from knowfuse.alignment.texts import Texts
from knowfuse.compiled import compiled
from knowfuse.types import MASS_CLASSES, SourceTrace, TokenizedDocument


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

    With `cuts` a row takes as known in which of the source's tokens the true next target token ends, and has no chained one, C = K + 1.
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
    num_rows, num_slots = len(target.ends), trace.topk.ids.shape[1] + (2 if cuts is None else 1)
    while True:
        to = _no_rows(num_rows, num_slots)
        if cuts is None:
            _as_cut(said, read, tokens, roles, texts, to)
            return to
        _look_ahead(said, read, tokens, roles, texts, to, cuts.longer, cuts.known)
        if not cuts.ask():  # all that had to be known was
            return to


def _no_rows(num_rows: int, num_slots: int) -> Aligned:
    return Aligned(
        np.zeros((num_rows, num_slots), dtype=np.int64),
        np.zeros((num_rows, num_slots)),
        np.zeros((num_rows, len(MASS_CLASSES))),
        np.zeros(num_rows),
        np.zeros(num_rows, dtype=np.bool_),
        np.zeros(num_rows, dtype=np.bool_),
    )


@compiled
@no_type_check
def _as_cut(said, read, tokens, roles, texts, to):
    for m in range(len(texts.source) - 1):
        its, its_read, its_rows = _text(said, read, texts, to, m)
        if len(its.ends) > 1:
            rows_as_cut(its, its_read, tokens, roles, its_rows)


@compiled
@no_type_check
def _look_ahead(said, read, tokens, roles, texts, to, longer, known):
    for m in range(len(texts.source) - 1):
        its, its_read, its_rows = _text(said, read, texts, to, m)
        if len(its.ends) > 1:
            look_ahead(its, its_read, tokens, roles, longer, known, its_rows)


@compiled
@no_type_check
def _text(said, read, texts, to, m):
    s, t = slice(texts.source[m], texts.source[m + 1]), slice(texts.target[m], texts.target[m + 1])
    its = Said(said.ids[s], said.ends[s], said.kept_ids[s], said.kept_probs[s], said.gold_probs[s], said.nll[s])
    its_rows = Aligned(to.ids[t], to.probs[t], to.budget[t], to.given[t], to.is_aligned[t], to.is_conditioned[t])
    return its, Read(read.ids[t], read.ends[t], read.data), its_rows
