"""Every alignment method by its name in conf/alignment, as the tests that hold for all of them need it.

But for optimal_transport, which asks for the target LLM's own words and has tests of its own.
"""

from collections.abc import Callable

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.chunk_likelihood import chunk_likelihood
from knowfuse.alignment.exact_match import exact_match
from knowfuse.alignment.hybrid import hybrid
from knowfuse.alignment.mapping_statistics import mapping_statistics
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.rank_matched import rank_matched
from knowfuse.types import Aligner

METHODS: dict[str, Callable[[TokenizerPair], Aligner]] = {
    its.__name__: its
    for its in (byte_exact, exact_match, min_edit_distance, mapping_statistics, rank_matched, hybrid, chunk_likelihood)
}
