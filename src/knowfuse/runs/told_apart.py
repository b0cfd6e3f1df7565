"""Which settings tell runs apart, in the names of their rows, and in which others do they differ?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

CHOICE = "._target_"  # the end of the key of what a group chooses


def labels(kinds: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells each from the others: as few of the settings in which they differ as it takes, those that all have first."""
    chosen, shown = _chosen(kinds)
    return [
        ", ".join(f"{key.removesuffix(CHOICE)}={shown(kind[key])}" for key in chosen if key in kind) for kind in kinds
    ]


def unnamed(kinds: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which these differ too, but for what comes with a choice that is named: a reader would not look for them."""
    if not kinds:
        return []
    chosen, _ = _chosen(kinds)
    others = [key for key in _different(kinds) if key not in chosen]
    return [key for key in others if not any(_comes_with(key, choice, kinds) for choice in chosen)]


def _comes_with(key: str, choice: str, kinds: Sequence[Mapping[str, Any]]) -> bool:
    """Whether it is a setting of this choice, the same wherever the choice is."""
    if not (choice.endswith(CHOICE) and key.startswith(f"{choice.removesuffix(CHOICE)}.")):
        return False
    return len({(str(kind.get(choice)), str(kind.get(key))) for kind in kinds}) == len(
        {str(kind.get(choice)) for kind in kinds}
    )


def _different(kinds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Choices first."""
    keys = sorted({key for kind in kinds for key in kind}, key=lambda key: (not key.endswith(CHOICE), key))
    return [key for key in keys if any(kind.get(key) != kinds[0].get(key) for kind in kinds)]


def _chosen(kinds: Sequence[Mapping[str, Any]]) -> tuple[list[str], Callable[[Any], str]]:
    """The settings of the names, and how their values are shown."""
    different, apart_in_all = _different(kinds), len({str(sorted(kind.items(), key=str)) for kind in kinds})
    shown = _short if _told_apart(kinds, different, _short) == apart_in_all else str
    chosen: list[str] = []
    while different and (so_far := _told_apart(kinds, chosen, shown)) < apart_in_all:
        apart = {key: _told_apart(kinds, [*chosen, key], shown) for key in different}
        helps = [key for key in different if apart[key] > so_far and all(key in kind for kind in kinds)]
        chosen.append(max(helps or different, key=apart.__getitem__))
        different.remove(chosen[-1])
    return chosen, shown


def _told_apart(kinds: Sequence[Mapping[str, Any]], keys: Sequence[str], shown: Callable[[Any], str]) -> int:
    """How many kinds these settings tell apart, as they are shown."""
    return len({tuple(shown(kind[key]) if key in kind else None for key in keys) for kind in kinds})


def _short(value: Any) -> str:
    """The name of a function without its modules."""
    return value.rpartition(".")[2] if isinstance(value, str) and value.startswith("knowfuse.") else str(value)
