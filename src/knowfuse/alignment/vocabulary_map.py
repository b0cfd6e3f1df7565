"""Which target id is each source id, by its printed form?

Source: FuseLLM, arXiv 2401.10491, section 3.2 (exact match, and minimum edit distance).
"""

import numpy as np
from jaxtyping import Int

from knowfuse.alignment.edit_distance import encode
from knowfuse.alignment.nearest import nearest_choices
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.printed import with_common_mark
from knowfuse.surface import Surface


def identical_strings(source: Surface, target: Surface) -> Int[np.ndarray, " V"]:
    """The target id of the same string, space marks translated; -1 where there is none. EOS goes to EOS, by role."""
    return _identical(source, target, with_common_mark(source), with_common_mark(target))


def nearest_strings(source: Surface, target: Surface) -> Int[np.ndarray, " V"]:
    """The target id of the same string, else of the nearest by Levenshtein distance.

    Of several at one distance the first in vocabulary order. Ids that stand for no text are neither mapped (-1) nor
    mapped to, but for EOS to EOS.
    """
    theirs, ours = with_common_mark(source), with_common_mark(target)
    mapped = _identical(source, target, theirs, ours)
    missing = {i: token for i, token in enumerate(theirs) if token is not None and mapped[i] < 0}
    choices = {i: token for i, token in enumerate(ours) if token is not None}
    if missing and choices:
        strings = encode([*missing.values(), *choices.values()])
        queries = np.arange(len(missing))
        found = nearest_choices(strings, queries, len(missing) + np.arange(len(choices)))
        mapped[list(missing)] = np.array(list(choices))[found]
    return mapped


def _identical(
    source: Surface, target: Surface, theirs: list[str | None], ours: list[str | None]
) -> Int[np.ndarray, " V"]:
    ids: dict[str, int] = {}
    for i, token in enumerate(ours):
        if token is not None:
            ids.setdefault(token, i)
    mapped = [-1 if token is None else ids.get(token, -1) for token in theirs]
    if source.eos_id is not None and target.eos_id is not None:
        mapped[source.eos_id] = target.eos_id
    return np.array(mapped, dtype=np.int64)


def kept_nearest_strings(pair: TokenizerPair) -> Int[np.ndarray, " V"]:
    """`nearest_strings` of the pair, made once where the pair keeps what is made for it."""
    return pair.kept("nearest-strings", lambda: {"target_ids": nearest_strings(pair.source, pair.target)})["target_ids"]
