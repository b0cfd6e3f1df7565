"""What of a run's settings is left where a target is its own and only source?"""

from collections.abc import Callable
from functools import partial
from typing import Any

from knowfuse.fusion.static import static

# Otherwise the KL of a target to itself is not 0, or not the loss's.
EXACT = {"form": "tail", "balance": "fixed", "completion": "token"}


def alone(fusion: Callable[..., Any], source: str) -> Callable[..., Any]:
    """The rule for this one source: the weights of several are not its."""
    if isinstance(fusion, partial) and fusion.func is static:
        return partial(static, weights={source: 1.0}, source_names=[source])
    return fusion


def require_exact(loss: Callable[..., Any]) -> None:
    """ValueError for an option by which a target that is its own source would learn all the same."""
    settings = loss.keywords if isinstance(loss, partial) else {}
    if wrong := [key for key, value in EXACT.items() if settings.get(key, value) != value]:
        given = " and ".join(f"loss.{key}={settings[key]}" for key in wrong)
        raise ValueError(
            f"debug=self looks for a KL of 0, token by token, with the tail and unscaled, and {given} is something else: add "
            + " ".join(f"loss.{key}={EXACT[key]}" for key in wrong)
        )
