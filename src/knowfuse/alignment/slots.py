"""Which methods need the tokens that a source found most probable, which the true ones alone, and which go with drawn ones?"""

from collections.abc import Callable

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.chunk_likelihood import chunk_likelihood
from knowfuse.alignment.exact_match import exact_match
from knowfuse.alignment.mapping_statistics import mapping_statistics
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.optimal_transport import optimal_transport
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.types import Aligner

WITHOUT_SLOTS = (chunk_likelihood,)
WITH_OWN = (optimal_transport,)
# Linear in a row's probabilities; where that takes an option: its default, and what it must be. A row inside a source token is
# divided by the mass of what begins with the bytes read, with look_ahead a row by the mass of the candidates in which
# its next token ends, and of several tokens on one the most probable is a comparison.
_SUMMED = {"many_to_one": ("sum", ("sum",))}
LINEAR = {
    byte_exact: {"rows": ("all", ("shared", "one_to_one")), "look_ahead": (True, (False,))},
    exact_match: _SUMMED,
    min_edit_distance: _SUMMED,
    mapping_statistics: _SUMMED,
    chunk_likelihood: {},
}


def require_slots(method: Callable[[TokenizerPair], Aligner], top_k: int) -> None:
    """ValueError where traces keep no token of a distribution, K = 0, and this method, perhaps a partial, needs some."""
    function = getattr(method, "func", method)
    if top_k == 0 and function not in WITHOUT_SLOTS:
        able = " or ".join(its.__name__ for its in WITHOUT_SLOTS)
        raise ValueError(
            f"alignment {getattr(function, '__name__', function)!r} needs the tokens that a source finds most probable, and "
            f"top_k is 0: set top_k to 1 or more, or alignment={able}"
        )


def needs_own(method: Callable[[TokenizerPair], Aligner]) -> bool:
    """Whether this method, perhaps a partial, asks what the target LLM itself said of each document."""
    return getattr(method, "func", method) in WITH_OWN


def require_linear(method: Callable[[TokenizerPair], Aligner]) -> None:
    """ValueError where what this method, perhaps a partial, makes of drawn tokens is not right on the mean over draws."""
    function, settings = getattr(method, "func", method), getattr(method, "keywords", {})
    name = getattr(function, "__name__", repr(function))
    if function not in LINEAR:
        raise ValueError(
            f"alignment {name!r} ranks or divides probabilities, and drawn ones (traces=sampled) would bias it: set traces=topk, or "
            f"alignment to one of {[its.__name__ for its in LINEAR]}"
        )
    asked = {option: (settings.get(option, its), right) for option, (its, right) in LINEAR[function].items()}
    wrong = {option: (value, right) for option, (value, right) in asked.items() if value not in right}
    if wrong:
        got = " and ".join(f"alignment.{option}={_written(its)}" for option, (its, _) in wrong.items())
        wanted = " ".join(f"alignment.{option}={_written(right[0])}" for option, (_, right) in wrong.items())
        raise ValueError(
            f"{got} of {name}: it divides or compares probabilities, and drawn ones (traces=sampled) would bias it: set {wanted}, or "
            "traces=topk"
        )


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
