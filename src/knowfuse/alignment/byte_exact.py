"""What would the source have said at this byte, in the target's tokens?

Alignment on bytes, after the byte-level view of token models (arXiv 2410.09303, 2412.03719, 2506.14123). Row t of
the target has consumed the bytes `[0, e)`; the last source boundary `b <= e` serves it. Let `r` be the bytes
`[b, e)`. The source row is conditioned on the candidates that start with `r` and that the target would have cut into the
tokens it has read since `b`: those that the row before gave to the last of these. Each candidate loses `r`, and what
remains of it goes to the first target token of those bytes. Where the true next target token spans several source
tokens, its probability is the product along the gold chain already in the trace (`look_ahead=False`). So the rows of a source token
multiply to at least what the source gave to it: along the true text nothing is lost.

Conditioned on the bytes alone, ` pieces`, which the target has as one token, would still weigh against the rest of ` p`,
`izz`, `as`. The less a target's tokens are like the source's, the more that costs: 0.09 bits per byte of Cyrillic cut inside
its letters, none now.

Byte-Prefix Marginalization (arXiv 2607.22334) is the same idea, online, found on its own. Differs: there what remains of a
candidate goes to the longest target token that is a prefix of it, here to the first token of the target's own cut, which for
3-16 % of real vocabularies is another (` TIM`: ` T`, not ` TI`).

**Looking ahead.** What remains of a candidate may be shorter than the target token that the text goes on to form (`th`, then
`e`: the target reads `the`). Counted as if the text were cut after it, `th` would be taught where the target can read only
`the`. What each candidate goes on to is not in a trace; what the text went on to is. So (`look_ahead`) a row takes one thing of the
text as known: **in which of the source's tokens the true next target token ends**. The source row before that token serves it:

- All source tokens before are the true ones. Each candidate of that row gives its mass to the target token that ends in it, with
  which the target's own cut of the bytes so far and the candidate's begins (below a probability of 0.001: the longest that they make).
  Candidates in which none ends, since it ended before or goes on beyond, have no part.
- A candidate that its token takes all of may be the beginning of a longer one. It counts with the share of the places in the training text
  where the token ended there; the true one with the share that the source's next row tells.
- A row at whose boundary the token read might have become longer keeps the candidates after which it did not.

The mean of such a row over all texts is what the source means, as that of labels is, and it says as much more than a label as the source
knew (`tests/alignment/test_look_ahead.py` holds it against the very distribution of a source that knows the probability of every text: off
by at most .05 for those shares, by .06 to .25 if the text were cut). What it takes as known is in `AlignedSource.given`, in nats; these and
its own nats along the true text are what the source paid. What is left: candidates of the row before that go on beyond a
boundary, in place of the gold one, count for nothing there.
"""

from functools import partial

import numpy as np

from knowfuse.alignment.byte_places import Roles
from knowfuse.alignment.byte_rows import aligned_rows
from knowfuse.alignment.duplicates import log_of
from knowfuse.alignment.first_tokens import FirstTokens, first_tokens
from knowfuse.alignment.longer import longer
from knowfuse.alignment.own_cuts import OwnCuts
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.row_classes import Rows, align_some_rows, check_flag, check_rows
from knowfuse.alignment.said import AMBIGUOUS, EXACT, TAIL, UNMAPPED
from knowfuse.alignment.spent import spent_on_target_tokens
from knowfuse.alignment.texts import Texts
from knowfuse.types import EMPTY, MASS_CLASSES, AlignedSource, Aligner, SourceTrace, TokenizedDocument, TopK


def byte_exact(
    pair: TokenizerPair, *, rows: Rows = "all", mask_whitespace: bool = False, look_ahead: bool = True
) -> Aligner:
    """The aligner for a pair of tokenizers: makes or finds the map from source tokens to first target tokens.

    `rows`: all teach, or those alone that begin where a source token does (`shared`), or whose token is one of the source's
    (`one_to_one`); `mask_whitespace`: none teaches white space. `look_ahead`: a row takes as known in which source token its next
    token ends; without, each candidate counts as if the text were cut after it. ValueError where an option does not exist.
    """
    check_rows(rows, mask_whitespace)
    check_flag("look_ahead", look_ahead)
    if pair.source.fingerprint == pair.target.fingerprint:
        align = partial(own_words, usable=pair.target.usable)
    else:
        roles = Roles(*(-1 if i is None else i for i in (pair.source.eos_id, pair.target.eos_id)))
        tokens = first_tokens(pair)
        cuts = OwnCuts(pair.target, tokens, longer(pair, tokens)) if look_ahead else None
        align = partial(align_bytes, tokens=tokens, roles=roles, cuts=cuts)
    return partial(align_some_rows, align=align, rows=rows, mask_whitespace=mask_whitespace)


def align_bytes(
    trace: SourceTrace,
    target: TokenizedDocument,
    data: bytes,
    texts: Texts | None = None,
    *,
    tokens: FirstTokens,
    roles: Roles,
    cuts: OwnCuts | None = None,
) -> AlignedSource:
    """One source's word on every row of a target document; K' = K + 1 (the gold token), and without `cuts` K + 2
    (the chained one).

    Of drawn tokens (`SourceTrace.draws`) rows that are conditioned are not aligned: their mass would be a quotient of estimates.
    """
    texts = texts or Texts.one(trace, target)
    ids, probs, budget, given, is_aligned, is_conditioned = aligned_rows(
        trace, target, data, tokens, roles, texts, cuts
    )
    if trace.draws is not None:  # a quotient of drawn probabilities would be biased
        is_aligned &= ~is_conditioned
    nll, source_tokens = spent_on_target_tokens(trace, target, texts)
    return AlignedSource(
        topk=TopK(ids, log_of(probs)),
        tail=budget[:, AMBIGUOUS:].sum(-1).astype(np.float32),
        nll=nll,
        source_tokens=source_tokens,
        is_aligned=is_aligned,
        given=given.astype(np.float32) if cuts is not None else None,
        budget=budget,
    )


def own_words(
    trace: SourceTrace, target: TokenizedDocument, data: bytes, texts: Texts | None = None, *, usable: int
) -> AlignedSource:
    """What a source said, as it said it, bit for bit: the target has the source's own tokenizer. K' = K + 1 (gold).

    The mass of ids from `usable` on, which the target LLM has no row for, is unmapped.
    """
    assert np.array_equal(trace.input_ids, target.input_ids), "one tokenizer, two ways to cut a document"
    gold = np.append(trace.input_ids[1:], 0)
    is_kept = ((trace.topk.ids == gold[:, None]) & (trace.topk.log_probs > EMPTY)).any(-1)
    log_probs = np.concatenate([trace.topk.log_probs, np.where(is_kept, EMPTY, -trace.nll)[:, None]], -1)
    ids = np.where(log_probs > EMPTY, np.concatenate([trace.topk.ids, gold[:, None]], -1), 0)
    has_row, probs = ids < usable, np.exp(log_probs, dtype=np.float64)
    ids, log_probs = np.where(has_row, ids, 0), np.where(has_row, log_probs, EMPTY)
    budget = np.zeros((len(ids), len(MASS_CLASSES)))
    budget[:, EXACT] = np.where(has_row, probs, 0.0).sum(-1)
    budget[:, UNMAPPED] = np.where(has_row, 0.0, probs).sum(-1)
    budget[:, TAIL] = np.maximum(1.0 - probs.sum(-1), 0.0)
    nll, source_tokens = spent_on_target_tokens(trace, target, texts)
    return AlignedSource(
        topk=TopK(ids, log_probs.astype(np.float32)),
        tail=budget[:, AMBIGUOUS:].sum(-1).astype(np.float32),
        nll=nll,
        source_tokens=source_tokens,
        is_aligned=np.arange(len(nll)) < len(nll) - 1,
        budget=budget,
    )
