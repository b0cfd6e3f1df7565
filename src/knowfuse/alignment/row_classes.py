"""How do a target's tokens lie to a source's, and which rows should teach?

Source: Byte-Prefix Marginalization, arXiv 2607.22334, and arXiv 2609.34738, 2610.08448 find on-policy that rows inside or
across source tokens, or with white space for a label, hurt. Differs: ours are off-policy, from a cache.
"""

from dataclasses import replace
from typing import Literal, TypeAlias, get_args, no_type_check

import numpy as np
from jaxtyping import Bool, Int, UInt8

from knowfuse.alignment.texts import Texts, TextsAligner
from knowfuse.compiled import compiled, compiled_part
from knowfuse.types import ROW_CLASSES, AlignedSource, SourceTrace, TokenizedDocument

Rows: TypeAlias = Literal["all", "shared", "one_to_one"]
ONE_TO_ONE, MANY_TO_ONE, ONE_TO_MANY, INSIDE = range(len(ROW_CLASSES))
IS_SPACE = np.array([byte in b" \t\n\r\v\f" for byte in range(256)])


@compiled
@no_type_check
def serving_rows(source_ends, target_ends):
    """The source row [T] that serves each target row: the last that predicts and ends at or before it; 0 where none does."""
    return last_before(source_ends[:-1], target_ends)


@compiled_part
@no_type_check
def last_before(ends, wanted):
    """The last of `ends` that is at or before each of `wanted` [T]; 0 where none is. Both ascend."""
    found, last = np.zeros(len(wanted), np.int64), 0
    for t in range(len(wanted)):
        while last + 1 < len(ends) and ends[last + 1] <= wanted[t]:
            last += 1
        found[t] = last
    return found


def row_classes(source_ends: Int[np.ndarray, " U"], target_ends: Int[np.ndarray, " T"]) -> UInt8[np.ndarray, " T"]:
    """Of each row the place in `ROW_CLASSES` of the target token that it predicts; the last row predicts none.

    A row whose token begins inside a source token is `inside`. Of the others, a token that ends inside one is `one_to_many`,
    and else the number of source tokens that it takes decides. A token of no bytes, as EOS, is `one_to_one`.
    """
    boundaries = np.unique(source_ends)
    before = np.searchsorted(boundaries, target_ends, side="right") - 1
    is_shared = boundaries[before] == target_ends
    takes, ends_shared = np.diff(before, append=before[-1:]), np.append(is_shared[1:], True)
    classes = np.where(takes > 1, MANY_TO_ONE, ONE_TO_ONE)
    classes[~ends_shared] = ONE_TO_MANY
    classes[~is_shared] = INSIDE
    return classes.astype(np.uint8)


def is_whitespace(target_ends: Int[np.ndarray, " T"], data: bytes) -> Bool[np.ndarray, " T"]:
    """Whether all bytes of the token that a row predicts are white space, and it has some."""
    written = np.concatenate([[0], np.cumsum(~IS_SPACE[np.frombuffer(data, dtype=np.uint8)])])
    following = np.append(target_ends[1:], target_ends[-1:])
    return (following > target_ends) & (written[following] == written[target_ends])


def check_rows(rows: str, mask_whitespace: object) -> None:
    """ValueError names an option that does not exist, and those that do."""
    if rows not in get_args(Rows):
        raise ValueError(f"alignment option rows={rows!r} does not exist: choose one of {list(get_args(Rows))}")
    check_flag("mask_whitespace", mask_whitespace)


def check_flag(option: str, value: object) -> None:
    """ValueError names an option that is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"alignment option {option}={value!r}: it must be true or false")


def align_some_rows(
    trace: SourceTrace,
    target: TokenizedDocument,
    data: bytes,
    texts: Texts | None = None,
    *,
    align: TextsAligner,
    rows: Rows,
    mask_whitespace: bool,
) -> AlignedSource:
    """What `align` says, with the classes of its rows, on those rows that shall teach; the others are not aligned.

    `shared`: the rows that begin at a boundary of the source; `one_to_one`: of those, the rows that one source token alone
    serves. `mask_whitespace`: none that predicts white space alone.
    """
    aligned, classes = align(trace, target, data, texts), row_classes(trace.ends, target.ends)
    teaches = aligned.is_aligned
    if rows != "all":
        teaches = teaches & (classes != INSIDE if rows == "shared" else classes == ONE_TO_ONE)
    if mask_whitespace:
        teaches = teaches & ~is_whitespace(target.ends, data)
    return replace(aligned, is_aligned=teaches, row_classes=classes)
