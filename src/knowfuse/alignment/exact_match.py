"""What did the source say where both tokenizers cut the same token? EM, the paper's strictest alignment.

Source: FuseLLM, arXiv 2401.10491, section 3.2.
"""

from functools import partial

import numpy as np

from knowfuse.alignment.matched_rows import ManyToOne, PairedStrings, Unaligned, align_rows, check_options, match_rows
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.types import AlignedSource, Aligner, SourceTrace, TokenizedDocument


def exact_match(pair: TokenizerPair, *, unaligned: Unaligned = "mask", many_to_one: ManyToOne = "sum") -> Aligner:
    """The aligner for a pair of tokenizers; ValueError where an option does not exist.

    `unaligned`: rows without a match are masked, or certain of the true next token. `many_to_one`: several source
    tokens of one target id are summed, or only the most probable counts.
    """
    check_options(unaligned, many_to_one)
    tokens = PairedStrings(pair.source, pair.target)
    return partial(align_exact_matches, tokens=tokens, unaligned=unaligned, many_to_one=many_to_one)


def align_exact_matches(
    trace: SourceTrace,
    target: TokenizedDocument,
    data: bytes,
    *,
    tokens: PairedStrings,
    unaligned: Unaligned,
    many_to_one: ManyToOne,
) -> AlignedSource:
    """One source's word on the rows whose tokens match one to one and are the same string; ids by identical string."""
    rows = match_rows(trace, target, tokens)
    for t in np.flatnonzero(rows > 0):  # row 0 is BOS, by role
        if tokens.source_strings[trace.input_ids[rows[t]]] != tokens.target_strings[target.input_ids[t]]:
            rows[t] = -1
    return align_rows(trace, target, rows, tokens.identical, unaligned=unaligned, many_to_one=many_to_one)
