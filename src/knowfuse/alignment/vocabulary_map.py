"""Which target id is each source id, by its printed form?

Source: FuseLLM, arXiv 2401.10491, section 3.2 (exact match, and minimum edit distance).
"""

import numpy as np
from jaxtyping import Int
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from knowfuse.alignment.printed import with_common_mark
from knowfuse.surface import Surface

CHUNK = 256  # source tokens whose distances to the whole target vocabulary are held at once


def identical_strings(source: Surface, target: Surface) -> Int[np.ndarray, " V"]:
    """The target id of the same string, space marks translated; -1 where there is none. EOS goes to EOS, by role."""
    ids: dict[str, int] = {}
    for i, token in enumerate(with_common_mark(target)):
        if token is not None:
            ids.setdefault(token, i)
    mapped = [-1 if token is None else ids.get(token, -1) for token in with_common_mark(source)]
    if source.eos_id is not None and target.eos_id is not None:
        mapped[source.eos_id] = target.eos_id
    return np.array(mapped, dtype=np.int64)


def nearest_strings(source: Surface, target: Surface) -> Int[np.ndarray, " V"]:
    """The target id of the same string, else of the nearest by Levenshtein distance.

    Of several at one distance the first in vocabulary order. Ids that stand for no text are neither mapped (-1) nor
    mapped to, but for EOS to EOS.
    """
    mapped = identical_strings(source, target)
    strings = with_common_mark(source)
    missing = [i for i, token in enumerate(strings) if token is not None and mapped[i] < 0]
    choices = {i: token for i, token in enumerate(with_common_mark(target)) if token is not None}
    ids, tokens = np.array(list(choices), dtype=np.int64), list(choices.values())
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        queries = [strings[i] for i in chunk]
        distances = process.cdist(queries, tokens, scorer=Levenshtein.distance, dtype=np.uint16, workers=1)
        mapped[chunk] = ids[distances.argmin(-1)]
    return mapped
