"""Which targets are merged? Those that finished runs trained, all from one LLM."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from knowfuse.llms.licences import shown_name
from knowfuse.llms.local import LocalLLM
from knowfuse.runs.trained import Trained, trained_of


def trained_by(runs: Sequence[str], method: str) -> dict[str, Trained]:
    """The targets of these runs by this method, by the names of their folders, as few parts of them as tell them apart.

    ValueError for a folder of no finished run, for one that is given twice, and for a method that a run has not.
    """
    if twice := next((run for run, count in Counter(map(_place, runs)).items() if count > 1), None):
        raise ValueError(f"run {str(twice)!r} is given twice: give each run once")
    names = _names([_place(run) for run in runs])
    return {name: trained_of(place, method) for name, place in zip(names, runs, strict=True)}


def _place(run: str) -> Path:
    return Path(run).expanduser().resolve()


def _names(places: Sequence[Path]) -> list[str]:
    longest = max((len(place.parts) for place in places), default=1)
    for parts in range(1, longest + 1):
        names = ["/".join(place.parts[-parts:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def require_one_base(targets: Mapping[str, Trained]) -> LocalLLM:
    """The LLM that all were trained from; ValueError that names two runs whose targets began as other LLMs."""
    if len(targets) < 2:
        raise ValueError(f"runs has {len(targets)} run: several targets are merged, give at least two runs")
    (first, one), *others = targets.items()
    for name, other in others:
        if other.base.fingerprint != one.base.fingerprint:
            began = [shown_name(trained.experiment.target) for trained in (one, other)]
            raise ValueError(
                f"the targets of {first!r} and {name!r} cannot be merged: they were trained from other LLMs ({began[0]} and {began[1]}, "
                "of other weights, tokenizers or dtypes), and a merge is of copies of one: give runs of one and the same target"
            )
    return one.base
