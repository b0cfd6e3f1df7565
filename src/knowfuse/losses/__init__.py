"""How far is the target LLM from the text and from the fused target?

`L = lm_weight * CLM + (1 - lm_weight) * KL(fused || target)`, FuseLLM, arXiv 2401.10491, equation 6 (there: lambda).
Both terms are means over the labelled rows, in nats. `sparse_kl` holds the formula, on logits; `chunked_head`
makes the logits of some rows at a time; `linear` puts them together, so that the logits of all rows never exist.
"""

from knowfuse.losses.chunked_head import CHUNK_ROWS, LinearHead, head_logits, linear_token_nll
from knowfuse.losses.completion import Completions, completions
from knowfuse.losses.linear import FusedLoss, fused_linear_loss
from knowfuse.losses.lm_weight import Headroom, LmWeight, WeightSchedule, by_domain
from knowfuse.losses.options import Balance, Completion, Divergence, Form, Gate, LossOptions
from knowfuse.losses.sparse_kl import token_nll

__all__ = [
    "CHUNK_ROWS",
    "Balance",
    "Completion",
    "Completions",
    "Divergence",
    "Form",
    "FusedLoss",
    "Gate",
    "Headroom",
    "LinearHead",
    "LmWeight",
    "LossOptions",
    "WeightSchedule",
    "by_domain",
    "completions",
    "fused_linear_loss",
    "head_logits",
    "linear_token_nll",
    "token_nll",
]
