"""What does a source say on the target rows that it matches, token for token?

The part that exact match and minimum edit distance share: a token map, a vocabulary map, and what becomes of the rest.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Int

from knowfuse.alignment.duplicates import drop_duplicates, merge_duplicates
from knowfuse.alignment.printed import with_common_mark, without_mark
from knowfuse.alignment.spent import ends_with_eos, spent_on_target_tokens
from knowfuse.alignment.token_map import one_to_one
from knowfuse.alignment.vocabulary_map import identical_strings, nearest_strings
from knowfuse.surface import Surface
from knowfuse.types import EMPTY, AlignedSource, SourceTrace, TokenizedDocument

Unaligned: TypeAlias = Literal["mask", "gold_next"]
ManyToOne: TypeAlias = Literal["sum", "first"]


@dataclass
class PairedStrings:
    """The printed tokens of a pair of tokenizers, and the maps between their vocabularies; each made on first use."""

    source: Surface
    target: Surface

    @cached_property
    def source_strings(self) -> list[str | None]:
        return with_common_mark(self.source)

    @cached_property
    def target_strings(self) -> list[str | None]:
        return with_common_mark(self.target)

    @cached_property
    def identical(self) -> Int[np.ndarray, " V"]:
        return identical_strings(self.source, self.target)

    @cached_property
    def nearest(self) -> Int[np.ndarray, " V"]:
        return nearest_strings(self.source, self.target)


def check_options(unaligned: str, many_to_one: str) -> None:
    """ValueError names an option that does not exist, and those that do."""
    for name, got, choices in (("unaligned", unaligned, Unaligned), ("many_to_one", many_to_one, ManyToOne)):
        if got not in get_args(choices):
            raise ValueError(f"alignment option {name}={got!r} does not exist: choose one of {list(get_args(choices))}")


def match_rows(trace: SourceTrace, target: TokenizedDocument, tokens: PairedStrings) -> Int[np.ndarray, " T"]:
    """The source row that serves each target row, -1 for none: that of the source token matched with its token.

    BOS matches BOS, by role. The last row of a document is never matched: it predicts nothing.
    """
    source_text = [tokens.source_strings[i] or "" for i in _text_ids(trace)]
    target_text = [tokens.target_strings[i] or "" for i in _text_ids(target)]
    rows = np.full(len(target.input_ids), -1, dtype=np.int64)
    text = one_to_one([without_mark(s) for s in source_text], [without_mark(t) for t in target_text])
    rows[1 : 1 + len(text)] = np.where(text >= 0, text + 1, -1)
    rows[0], rows[-1] = 0, -1
    return np.where(rows < len(trace.input_ids) - 1, rows, -1)


def _text_ids(tokens: SourceTrace | TokenizedDocument) -> list[int]:
    return tokens.input_ids[1 : len(tokens.input_ids) - ends_with_eos(tokens.ends)].tolist()


def align_rows(
    trace: SourceTrace,
    target: TokenizedDocument,
    rows: Int[np.ndarray, " T"],
    id_map: Int[np.ndarray, " V"],
    *,
    unaligned: Unaligned,
    many_to_one: ManyToOne,
) -> AlignedSource:
    """The kept tokens of source row `rows[t]` at target row t (-1: none), each under the target id that `id_map` gives.

    The mass of tokens without a target id goes to the tail, as does, under `many_to_one="first"`, that of all but the
    most probable token of one target id. Under `unaligned="gold_next"` a row without a source row is certain of the
    true next token.

    Source: FuseLLM, arXiv 2401.10491, section 3.2.
    Differs: the published code makes an unmatched row certain of its own token, `input_ids[t]`; here it is the next.
    """
    kept = trace.topk.log_probs[rows]
    ids = id_map[np.where(kept > EMPTY, trace.topk.ids[rows], 0)]
    mass = np.where(rows[:, None] >= 0, np.exp(kept, dtype=np.float64), 0.0)
    mass = drop_duplicates(ids, mass) if many_to_one == "first" else mass
    is_aligned = rows >= 0
    if unaligned == "gold_next":
        certain = np.flatnonzero(~is_aligned[:-1])  # the last row predicts nothing
        ids[certain, 0], mass[certain, 0], is_aligned[certain] = target.input_ids[certain + 1], 1.0, True
    topk, tail = merge_duplicates(ids, mass)
    nll, source_tokens = spent_on_target_tokens(trace, target)
    return AlignedSource(topk, tail, nll, source_tokens, is_aligned)
