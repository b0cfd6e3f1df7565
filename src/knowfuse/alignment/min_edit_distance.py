"""What did the source say at the token most like the target's? MinED, the paper's alignment.

Source: FuseLLM, arXiv 2401.10491, section 3.2.
"""

from knowfuse.alignment.matched_rows import ManyToOne, Unaligned, check_options, matching_aligner
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.vocabulary_map import kept_nearest_strings
from knowfuse.types import Aligner


def min_edit_distance(pair: TokenizerPair, *, unaligned: Unaligned = "mask", many_to_one: ManyToOne = "sum") -> Aligner:
    """The aligner for a pair of tokenizers; ValueError where an option does not exist.

    Rows whose token matches one source token, and is the same string or the one nearest to it in the vocabulary; ids by
    identical, else by nearest string. That map is kept where the pair keeps what is made for it.

    `unaligned`: rows without a match are masked, or certain of the true next token. `many_to_one`: several source
    tokens of one target id are summed, or only the most probable counts.
    """
    check_options(unaligned, many_to_one)
    return matching_aligner(pair, kept_nearest_strings(pair), unaligned, many_to_one)
