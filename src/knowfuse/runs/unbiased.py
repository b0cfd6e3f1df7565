"""Of which settings is the gradient right on the mean over draws? `traces=sampled` goes with these alone.

A drawn distribution is right on the mean over draws, and so is what is linear in it: the gradient of the forward KL, a mixture of
sources by weights that the true text decides, tokens given to target tokens and summed. What divides by a part of it, sorts it, or
bends it by a logarithm or a power is right of no distribution.

What stays: mass without a target id goes to the tail, which the loss spreads over the ids outside the slots, and those differ by
draw. The KL that is logged is above the source's by the entropy that a draw lacks; its gradient is not.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from knowfuse.alignment.slots import require_linear
from knowfuse.traces.drawing import MOST_DRAWS
from knowfuse.types import Kept, LLMSpec

LINEAR = {"divergence": "forward_kl", "temperature": 1.0, "form": "tail", "gate": "none", "balance": "fixed"}


def require_unbiased(alignment: Callable[..., Any], loss: Callable[..., Any], debug: str | None) -> None:
    """ValueError for a setting by which drawn traces would teach another mean than whole distributions; it is named."""
    require_linear(alignment)
    settings = loss.keywords if isinstance(loss, partial) else {}
    if wrong := [f"loss.{key}={settings[key]}" for key, value in LINEAR.items() if settings.get(key, value) != value]:
        raise ValueError(
            f"traces=sampled is right on the mean over draws, and {' and '.join(wrong)} is not linear in what was drawn: set "
            + " ".join(f"loss.{key}={value}" for key, value in LINEAR.items() if settings.get(key, value) != value)
            + ", or traces=topk"
        )
    if debug is not None:
        raise ValueError(
            f"debug={debug} compares a target with what it says itself, and traces=sampled keeps draws of that: set traces=topk"
        )


def require_drawable(kept: Kept, top_k: int, sources: Mapping[str, LLMSpec]) -> None:
    """ValueError where nothing can be drawn: no slot, more slots than draws, a source that is on a server."""
    if kept == "topk":
        return
    if not 1 <= top_k <= MOST_DRAWS:
        raise ValueError(
            f"traces=sampled draws up to {MOST_DRAWS} tokens of a row into top_k slots, and top_k is {top_k}: set it to 1 to "
            f"{MOST_DRAWS}, or traces=topk"
        )
    if served := [name for name, spec in sources.items() if spec.server is not None]:
        raise ValueError(
            f"traces=sampled draws from whole distributions, of which the server of source {served[0]!r} tells the most probable "
            "tokens alone: set traces=topk, or read that source here"
        )
