"""What is left of two distributions over buckets where a temperature softens both?

A trace holds slots and a tail, not how the tail is spread, so a temperature can soften buckets alone: of one that stands for `n`
tokens with the probability P `n (P / n)^(1 / T)` is left before all is scaled to sum to 1, as if it were spread evenly. The
target LLM's tail counts so too, though its spread is known: two distributions that are the same stay the same at any T, and with slots for the
whole vocabulary it is the softened softmax. Source: Hinton et al., arXiv 1503.02531, section 2; buckets are ours.
"""

from jaxtyping import Float, Float64, Int
from torch import Tensor

# Temperatures, between which what comes of float32 logits is known to a few millionths of a nat.
LEAST, MOST = 0.01, 1000.0


def softened(log_probs: Float[Tensor, "N M"], sizes: Int[Tensor, "N M"], temperature: float) -> Float64[Tensor, "N M"]:
    """Log-probabilities of buckets of so many tokens, softened; one that is empty stays so.

    In float64: what tells them apart shrinks with `1 / T`, and counts with `T^2`.
    """
    log_sizes = sizes.clamp(min=1).double().log()
    return (log_sizes + (log_probs.double() - log_sizes) / temperature).log_softmax(1)
