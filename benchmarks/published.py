"""The published alignment as plain loops over tokens and cells: what the tests and benchmarks/alignment.py compare with.

Source: FuseLLM, arXiv 2401.10491, section 3.2, and the code published with it. Only the edit distance of two strings is
a C function, as it is there.

Differs: as `knowfuse.alignment` does (BOS and EOS by role, WordPiece's marks translated, ids without text take no part,
unmatched rows masked or certain of the NEXT token, candidates of one target id summed under `many_to_one="sum"`).
"""

from typing import TypeAlias

import numpy as np
from rapidfuzz.distance import Levenshtein

from knowfuse.alignment.printed import with_common_mark, without_mark
from knowfuse.surface import Surface
from knowfuse.types import EMPTY, SourceTrace, TokenizedDocument

INFINITE = float("inf")
Printed: TypeAlias = tuple[list[str | None], list[str | None]]  # of the source's ids and of the target's


def printed(source: Surface, target: Surface) -> Printed:
    """The printed tokens of both vocabularies, one mark for a space; None for ids that stand for no text."""
    return with_common_mark(source), with_common_mark(target)


def time_warp(source: list[str], target: list[str]) -> list[tuple[int, int]]:
    """The matched pairs (source token, target token), from the last to the first; both lists have tokens."""
    total = [[INFINITE] * (len(target) + 1) for _ in range(len(source) + 1)]
    total[0][0] = 0
    for i, a in enumerate(source):
        for j, b in enumerate(target):
            total[i + 1][j + 1] = Levenshtein.distance(a, b) + min(total[i][j], total[i][j + 1], total[i + 1][j])
    i, j = len(source) - 1, len(target) - 1
    pairs = [(i, j)]
    while i > 0 or j > 0:
        diagonal, up, left = total[i][j], total[i][j + 1], total[i + 1][j]
        if i == 0 or j == 0:  # what is before the first pair is no token
            diagonal = INFINITE
        move = [diagonal, up, left].index(min(diagonal, up, left))
        i, j = (i - 1, j - 1) if move == 0 else (i - 1, j) if move == 1 else (i, j - 1)
        pairs.append((i, j))
    return pairs


def nearest_token(token: str, choices: list[str | None]) -> int:
    """The first of the target's ids at the least edit distance; None: an id without text."""
    best, found = INFINITE, -1
    for i, choice in enumerate(choices):
        if choice is not None and (distance := Levenshtein.distance(token, choice)) < best:
            best, found = distance, i
    return found


def vocabulary_map(source: Surface, target: Surface, nearest: bool = True) -> dict[int, int]:
    """The target id of each source id that has one: of the identical string, else of the nearest (if wanted)."""
    choices = with_common_mark(target)
    first = {token: i for i, token in reversed(list(enumerate(choices))) if token is not None}
    mapped: dict[int, int] = {}
    for i, token in enumerate(with_common_mark(source)):
        if token is not None and (token in first or nearest):
            mapped[i] = first[token] if token in first else nearest_token(token, choices)
    if source.eos_id is not None and target.eos_id is not None:
        mapped[source.eos_id] = target.eos_id
    return mapped


def text_length(tokens: SourceTrace | TokenizedDocument) -> int:
    """The tokens up to an EOS, BOS among them."""
    complete = len(tokens.ends) > 1 and tokens.ends[-1] == tokens.ends[-2]
    return len(tokens.ends) - 1 if complete else len(tokens.ends)


def text_pairs(
    trace: SourceTrace | TokenizedDocument, tokens: TokenizedDocument, printed: Printed
) -> list[tuple[int, int]]:
    """The matched pairs of a document's tokens, BOS with BOS as (0, 0)."""
    theirs, ours = printed
    source_text = [without_mark(theirs[i] or "") for i in trace.input_ids[1 : text_length(trace)]]
    target_text = [without_mark(ours[i] or "") for i in tokens.input_ids[1 : text_length(tokens)]]
    pairs = time_warp(source_text, target_text) if source_text and target_text else []
    return [(0, 0), *((i + 1, j + 1) for i, j in pairs)]


def serving_rows(trace: SourceTrace, tokens: TokenizedDocument, printed: Printed, id_map: dict[int, int]) -> list[int]:
    """The source row that serves each target row, -1 for none."""
    theirs, ours = printed
    partners: list[list[int]] = [[] for _ in tokens.input_ids]
    for i, j in text_pairs(trace, tokens, printed):
        partners[j].append(i)
    rows = []
    for j, matched in enumerate(partners):
        rows.append(-1)
        if len(matched) == 1 and matched[0] < len(trace.input_ids) - 1 and j < len(tokens.input_ids) - 1:
            a, b = int(trace.input_ids[matched[0]]), int(tokens.input_ids[j])
            if matched[0] == j == 0 or theirs[a] == ours[b] or id_map.get(a) == b:
                rows[j] = matched[0]
    return rows


def align(
    trace: SourceTrace,
    tokens: TokenizedDocument,
    printed: Printed,
    id_map: dict[int, int],
    many_to_one: str,
    unaligned: str = "mask",
) -> list[dict[int, float] | None]:
    """The probabilities of target ids that each target row hears; None where nothing is said."""
    probs = np.exp(trace.topk.log_probs.astype(np.float64))
    said: list[dict[int, float] | None] = []
    for j, row in enumerate(serving_rows(trace, tokens, printed, id_map)):
        if row < 0:
            certain = unaligned == "gold_next" and j < len(tokens.input_ids) - 1
            said.append({int(tokens.input_ids[j + 1]): 1.0} if certain else None)
            continue
        landed: dict[int, float] = {}
        for i, log_prob, prob in zip(trace.topk.ids[row], trace.topk.log_probs[row], probs[row], strict=True):
            if log_prob > EMPTY and int(i) in id_map:
                mapped = id_map[int(i)]
                if mapped not in landed:
                    landed[mapped] = float(prob)
                elif many_to_one == "sum":
                    landed[mapped] += float(prob)
        said.append(landed)
    return said
