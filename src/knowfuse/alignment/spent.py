"""What did a source spend on the bytes of each target token?"""

from typing import no_type_check

import numpy as np

from knowfuse.alignment.texts import Texts
from knowfuse.compiled import compiled, compiled_part
from knowfuse.types import SourceTrace, TokenizedDocument


def spent_on_target_tokens(
    trace: SourceTrace, target: TokenizedDocument, texts: Texts | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Nats [T] and source tokens [T] that the source spent on what each target row predicts; the last row is 0.

    Inside a source token its nats are shared out by bytes, so that the sums over a document are the source's own.
    An EOS costs what the source paid for its EOS, and nothing where one of the two has none. A source's lone `▁` before
    the first word takes no bytes, and counts to the first target token. Of several texts the last row of each is 0.
    """
    nll, tokens = np.zeros((2, len(target.ends)), dtype=np.float32)
    _share_out(trace.nll, trace.ends, target.ends, texts or Texts.one(trace, target), nll, tokens)
    return nll, tokens


@compiled
@no_type_check
def _share_out(paid_for, source_ends, target_ends, texts, nll, tokens):
    for m in range(len(texts.source) - 1):
        s, t = slice(texts.source[m], texts.source[m + 1]), slice(texts.target[m], texts.target[m + 1])
        _share_out_one(paid_for[s], source_ends[s], target_ends[t], nll[t], tokens[t])


@compiled_part
@no_type_check
def _share_out_one(paid_for, source_ends, target_ends, nll, tokens):
    paid, source_has_eos, target_has_eos = paid_up_to(paid_for), has_eos(source_ends), has_eos(target_ends)
    num_text = len(source_ends) - source_has_eos
    before, before_tokens, u = 0.0, 0.0, 0
    for t in range(1, len(target_ends)):
        while u + 1 < num_text and source_ends[u + 1] <= target_ends[t]:
            u += 1
        now, now_tokens = paid[u], float(u)
        if source_ends[u] < target_ends[t] and u + 1 < num_text:  # inside a token: its share of what is paid to its end
            last = u + 1
            while last + 1 < num_text and source_ends[last + 1] == source_ends[u + 1]:
                last += 1
            size, takes = source_ends[last] - source_ends[u], target_ends[t] - source_ends[u]
            now = (paid[last] - paid[u]) / size * takes + paid[u]
            now_tokens = (last - u) / size * takes + u
        if t == len(target_ends) - 1 and target_has_eos and source_has_eos:
            now, now_tokens = paid[-1], float(len(source_ends) - 1)
        nll[t - 1], tokens[t - 1] = now - before, now_tokens - before_tokens
        before, before_tokens = now, now_tokens


@compiled_part
@no_type_check
def paid_up_to(nll):
    """Nats up to and with each token, of the nats of the token after each row."""
    paid = np.zeros(len(nll))
    for u in range(1, len(paid)):
        paid[u] = paid[u - 1] + nll[u - 1]
    return paid


@compiled_part
@no_type_check
def has_eos(ends):
    """`ends_with_eos`, of compiled code."""
    return len(ends) > 1 and ends[-1] == ends[-2]
