"""What did a source spend on the bytes of each target token?"""

import numpy as np

from knowfuse.surface.turns import ends_with_eos
from knowfuse.types import SourceTrace, TokenizedDocument


def spent_on_target_tokens(trace: SourceTrace, target: TokenizedDocument) -> tuple[np.ndarray, np.ndarray]:
    """Nats [T] and source tokens [T] that the source spent on what each target row predicts; the last row is 0.

    Inside a source token its nats are shared out by bytes, so that the sums over a document are the source's own.
    An EOS costs what the source paid for its EOS, and nothing where one of the two has none. A source's lone `▁` before
    the first word takes no bytes, and counts to the first target token.
    """
    paid = np.concatenate([[0.0], np.cumsum(trace.nll[:-1], dtype=np.float64)])  # [U] nats up to and with token u
    texts = np.arange(len(trace.ends) - ends_with_eos(trace.ends))
    texts = texts[np.append(trace.ends[texts[1:]] != trace.ends[texts[:-1]], True)]  # the last that ends at each byte
    spent = np.interp(target.ends, trace.ends[texts], paid[texts])
    tokens = np.interp(target.ends, trace.ends[texts], texts.astype(np.float64))
    spent[0] = tokens[0] = 0.0
    if ends_with_eos(target.ends) and ends_with_eos(trace.ends):
        spent[-1], tokens[-1] = paid[-1], len(trace.ends) - 1
    nll = np.append(np.diff(spent), 0.0)
    return nll.astype(np.float32), np.append(np.diff(tokens), 0.0).astype(np.float32)
