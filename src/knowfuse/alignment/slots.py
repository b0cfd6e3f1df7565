"""Which methods need the tokens that a source found most probable, and which the true ones alone?"""

from collections.abc import Callable

from knowfuse.alignment.chunk_likelihood import chunk_likelihood
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.types import Aligner

WITHOUT_SLOTS = (chunk_likelihood,)


def require_slots(method: Callable[[TokenizerPair], Aligner], top_k: int) -> None:
    """ValueError where traces keep no token of a distribution, K = 0, and this method, perhaps a partial, needs some."""
    function = getattr(method, "func", method)
    if top_k == 0 and function not in WITHOUT_SLOTS:
        able = " or ".join(its.__name__ for its in WITHOUT_SLOTS)
        raise ValueError(
            f"alignment {getattr(function, '__name__', function)!r} needs the tokens that a source finds most probable, and "
            f"top_k is 0: set top_k to 1 or more, or alignment={able}"
        )
