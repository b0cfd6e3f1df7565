"""How probable did the source find this stretch of text? The gold chain alone, chunk by chunk; no slot is needed, K may be 0.

Source: Minixhofer et al., Approximate Likelihood Matching, arXiv 2503.20083: a text is cut at the bytes where tokens of both
end, and the target shall find each chunk as probable as the source did, a yes or no whose binary KL is the loss.

A chunk that is one target token is one row: the true next token has the chunk's probability, the product along the source's
tokens, and the tail is everything else. The sparse KL with its tail bucket then is ALM's loss of that chunk, at temperature 1.
Differs: a chunk of several target tokens has the probability of several rows together, which no row can be given without
guessing how it is shared among them; those rows are not aligned, and coverage says how many they are. ALM's temperature,
its debiasing of chunks whose end only one tokenizer would choose, and its latent loss are not here.
"""

from functools import partial

import numpy as np

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.row_classes import MANY_TO_ONE, ONE_TO_ONE, row_classes
from knowfuse.alignment.spent import spent_on_target_tokens
from knowfuse.surface.turns import ends_with_eos
from knowfuse.types import AlignedSource, Aligner, SourceTrace, TokenizedDocument, TopK


def chunk_likelihood(pair: TokenizerPair) -> Aligner:
    """The aligner for a pair of tokenizers."""
    return partial(align_chunks, usable=pair.target.usable)


def align_chunks(trace: SourceTrace, target: TokenizedDocument, data: bytes, *, usable: int) -> AlignedSource:
    """One source's word on the rows whose next token is a chunk, for a target that can say the ids below `usable`. K' = 1.

    EOS is a chunk where both have one; a space that only the target's tokenizer puts before the text is in none.
    """
    classes, labels = row_classes(trace.ends, target.ends), np.append(target.input_ids[1:], 0)
    takes_bytes = np.diff(target.ends, append=target.ends[-1:]) > 0
    is_whole = np.append(True, takes_bytes[:-1])  # no token without bytes came before, which would be of the same chunk
    is_aligned = takes_bytes & is_whole & np.isin(classes, (ONE_TO_ONE, MANY_TO_ONE)) & (labels < usable)
    if ends_with_eos(target.ends):
        is_aligned[-2] = ends_with_eos(trace.ends)
    nll, source_tokens = spent_on_target_tokens(trace, target)
    tail = -np.expm1(-nll.astype(np.float64))
    return AlignedSource(
        topk=TopK(np.where(is_aligned, labels, 0)[:, None], -nll[:, None]),
        tail=np.clip(tail, 0.0, 1.0).astype(np.float32),
        nll=nll,
        source_tokens=source_tokens,
        is_aligned=is_aligned,
        row_classes=classes,
    )
