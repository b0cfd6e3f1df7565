"""Every alignment method by its name in conf/alignment, as the tests that hold for all of them need it; pairs of tokenizers.

But for optimal_transport, which asks for the target LLM's own words and has tests of its own.
"""

from collections.abc import Callable

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.chunk_likelihood import chunk_likelihood
from knowfuse.alignment.exact_match import exact_match
from knowfuse.alignment.hybrid import hybrid
from knowfuse.alignment.mapping_statistics import mapping_statistics
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import Arrays, TokenizerPair
from knowfuse.alignment.rank_matched import rank_matched
from knowfuse.surface import Surface
from knowfuse.types import Aligner

METHODS: dict[str, Callable[[TokenizerPair], Aligner]] = {
    its.__name__: its
    for its in (byte_exact, exact_match, min_edit_distance, mapping_statistics, rank_matched, hybrid, chunk_likelihood)
}

_KEPT: dict[str, Arrays] = {}


def pair_of(source: Surface, target: Surface) -> TokenizerPair:
    """The pair of these two; what lies between them is made once for all tests."""
    return TokenizerPair(source, target, keep=_kept)


def _kept(name: str, make: Callable[[], Arrays]) -> Arrays:
    if name not in _KEPT:
        _KEPT[name] = make()
    return _KEPT[name]
