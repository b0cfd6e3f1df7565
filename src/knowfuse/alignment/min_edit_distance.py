"""What did the source say at the token most like the target's? MinED, the paper's alignment.

Source: FuseLLM, arXiv 2401.10491, section 3.2.
"""

from functools import partial

from knowfuse.alignment.matched_rows import ManyToOne, PairedStrings, Unaligned, align_rows, check_options, match_rows
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.types import AlignedSource, Aligner, SourceTrace, TokenizedDocument


def min_edit_distance(pair: TokenizerPair, *, unaligned: Unaligned = "mask", many_to_one: ManyToOne = "sum") -> Aligner:
    """The aligner for a pair of tokenizers; ValueError where an option does not exist.

    `unaligned`: rows without a match are masked, or certain of the true next token. `many_to_one`: several source
    tokens of one target id are summed, or only the most probable counts.
    """
    check_options(unaligned, many_to_one)
    tokens = PairedStrings(pair.source, pair.target)
    return partial(align_nearest_matches, tokens=tokens, unaligned=unaligned, many_to_one=many_to_one)


def align_nearest_matches(
    trace: SourceTrace,
    target: TokenizedDocument,
    data: bytes,
    *,
    tokens: PairedStrings,
    unaligned: Unaligned,
    many_to_one: ManyToOne,
) -> AlignedSource:
    """One source's word on the rows whose tokens match one to one; ids by identical, else by nearest string."""
    rows = match_rows(trace, target, tokens)
    return align_rows(trace, target, rows, tokens.nearest, unaligned=unaligned, many_to_one=many_to_one)
