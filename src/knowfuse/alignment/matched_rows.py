"""What does a source say on the target rows that it matches, token for token?

The part that exact match, minimum edit distance and mapping statistics share: they differ in the vocabulary map alone.

Source: FuseLLM, arXiv 2401.10491, section 3.2, and the code published with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Int

from knowfuse.alignment.duplicates import drop_duplicates, merge_duplicates
from knowfuse.alignment.edit_distance import EncodedStrings, encode
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.printed import with_common_mark, without_mark
from knowfuse.alignment.spent import spent_on_target_tokens
from knowfuse.alignment.token_map import matched_pairs, only_matches
from knowfuse.surface.turns import ends_with_eos
from knowfuse.types import EMPTY, AlignedSource, Aligner, SourceTrace, TokenizedDocument

Unaligned: TypeAlias = Literal["mask", "gold_next"]
ManyToOne: TypeAlias = Literal["sum", "first"]


@dataclass
class PairedStrings:
    """The printed tokens of a pair of tokenizers by number: ids with one number are one string.

    `source` and `target` number the tokens with their space marks, translated; the `bare` ones those without, which
    are `strings`.
    """

    source: Int[np.ndarray, " V"]
    target: Int[np.ndarray, " W"]
    bare_source: Int[np.ndarray, " V"]
    bare_target: Int[np.ndarray, " W"]
    strings: EncodedStrings


def pair_strings(pair: TokenizerPair) -> PairedStrings:
    """The numbers of the tokens of both vocabularies; ids that stand for no text are the empty string."""
    printed = [[token or "" for token in with_common_mark(surface)] for surface in (pair.source, pair.target)]
    bare = [[without_mark(token) for token in tokens] for tokens in printed]
    source, target, _ = numbered(*printed)
    bare_source, bare_target, strings = numbered(*bare)
    return PairedStrings(source, target, bare_source, bare_target, encode(strings))


def numbered(
    source: Sequence[str], target: Sequence[str]
) -> tuple[Int[np.ndarray, " V"], Int[np.ndarray, " W"], list[str]]:
    """The numbers of the strings of both, and the strings by number."""
    numbers = {string: number for number, string in enumerate(dict.fromkeys([*source, *target]))}
    both = [np.array([numbers[string] for string in strings], dtype=np.int64) for strings in (source, target)]
    return both[0], both[1], list(numbers)


def check_options(unaligned: str, many_to_one: str) -> None:
    """ValueError names an option that does not exist, and those that do."""
    for name, got, choices in (("unaligned", unaligned, Unaligned), ("many_to_one", many_to_one, ManyToOne)):
        if got not in get_args(choices):
            raise ValueError(f"alignment option {name}={got!r} does not exist: choose one of {list(get_args(choices))}")


def matching_aligner(
    pair: TokenizerPair, id_map: Int[np.ndarray, " V"], unaligned: Unaligned, many_to_one: ManyToOne
) -> Aligner:
    """The aligner that serves the rows whose tokens match under this vocabulary map (-1: no target id)."""
    return partial(
        align_matches, tokens=pair_strings(pair), id_map=id_map, unaligned=unaligned, many_to_one=many_to_one
    )


def align_matches(
    trace: SourceTrace,
    target: TokenizedDocument,
    data: bytes,
    *,
    tokens: PairedStrings,
    id_map: Int[np.ndarray, " V"],
    unaligned: Unaligned,
    many_to_one: ManyToOne,
) -> AlignedSource:
    """One source's word on every row of a target document."""
    rows = match_rows(trace, target, tokens, id_map)
    return align_rows(trace, target, rows, id_map, unaligned=unaligned, many_to_one=many_to_one)


def text_pairs(
    source: SourceTrace | TokenizedDocument, target: TokenizedDocument, tokens: PairedStrings
) -> Int[np.ndarray, "P 2"]:
    """The matched pairs of the tokens that stand for text; token 0 of each side is the one after BOS."""
    return matched_pairs(tokens.strings, tokens.bare_source[_text_ids(source)], tokens.bare_target[_text_ids(target)])


def _text_ids(tokens: SourceTrace | TokenizedDocument) -> Int[np.ndarray, " N"]:
    return tokens.input_ids[1 : len(tokens.input_ids) - ends_with_eos(tokens.ends)]


def match_rows(
    trace: SourceTrace, target: TokenizedDocument, tokens: PairedStrings, id_map: Int[np.ndarray, " V"]
) -> Int[np.ndarray, " T"]:
    """The source row that serves each target row, -1 for none.

    A target token is served by the one source token that it matches, where the two are the same string, space marks
    translated, or where the vocabulary map leads from that one to it; the source token may match other target tokens
    too. The last row of a document is never served: it predicts nothing.

    Differs: BOS matches BOS and EOS matches EOS by role, where the published code has a table of the printed special
    tokens of each tokenizer in the same sequence; WordPiece's marks are translated too.
    """
    source_ids, target_ids = _text_ids(trace), _text_ids(target)
    text = only_matches(text_pairs(trace, target, tokens), len(target_ids))
    if len(source_ids) > 0:
        matched = source_ids[text]
        is_same = tokens.source[matched] == tokens.target[target_ids]
        text[~is_same & (id_map[matched] != target_ids)] = -1
    rows = np.full(len(target.input_ids), -1, dtype=np.int64)
    rows[1 : 1 + len(text)] = np.where(text >= 0, text + 1, -1)
    rows[0], rows[-1] = 0, -1
    return np.where(rows < len(trace.input_ids) - 1, rows, -1)


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

    The mass of tokens without a target id goes to the tail, as does, under `many_to_one="first"` (the paper's), that of
    all but the most probable token of one target id. Under `unaligned="gold_next"` a row without a source row is
    certain of the true next token.

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
