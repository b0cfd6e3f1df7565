"""What did the source say where both tokenizers cut the same token? EM, the paper's strictest alignment.

Source: FuseLLM, arXiv 2401.10491, section 3.2.
"""

from knowfuse.alignment.matched_rows import ManyToOne, Unaligned, check_options, matching_aligner
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.vocabulary_map import identical_strings
from knowfuse.types import Aligner


def exact_match(pair: TokenizerPair, *, unaligned: Unaligned = "mask", many_to_one: ManyToOne = "sum") -> Aligner:
    """The aligner for a pair of tokenizers; ValueError where an option does not exist.

    Rows whose token matches one source token and is the same string, and ids by identical string.

    `unaligned`: rows without a match are masked, or certain of the true next token. `many_to_one`: several source
    tokens of one target id are summed, or only the most probable counts.
    """
    check_options(unaligned, many_to_one)
    return matching_aligner(pair, identical_strings(pair.source, pair.target), unaligned, many_to_one)
