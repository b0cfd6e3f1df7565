"""Which targets are merged? Those that finished runs trained, all from one LLM."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from knowfuse.llms.licences import shown_name
from knowfuse.llms.local import LocalLLM
from knowfuse.runs.trained import Trained, trained_of

FUSED = "fused"


def trained_by(runs: Sequence[str], method: str) -> dict[str, Trained]:
    """The targets of these runs by this method, by the names of their folders, as few parts of them as tell them apart.

    ValueError for a folder of no finished run, for one that is given twice, and for a method that a run has not.
    """
    return _named(runs, method, {})


def trained_beside(targets: Mapping[str, Trained], runs: Sequence[str]) -> dict[str, Trained]:
    """The fused targets of further runs, by names that are no target's; of the same run as one, which is by another method, with theirs.

    ValueError as `trained_by`, and for a run whose fused target is one of these.
    """
    same = {_place(its.run): its.method for its in targets.values()}
    if both := next((run for run in runs if same.get(_place(run)) == FUSED), None):
        raise ValueError(f"run {both!r} is in runs and in beside: give it once")
    return _named(runs, FUSED, targets)


def _named(runs: Sequence[str], method: str, others: Mapping[str, Trained]) -> dict[str, Trained]:
    places = [_place(run) for run in runs]
    if twice := next((place for place, count in Counter(places).items() if count > 1), None):
        raise ValueError(f"run {str(twice)!r} is given twice: give each run once")
    same = {_place(its.run) for its in others.values()}
    most = max((len(place.parts) for place in places), default=1)
    tried = (
        ["/".join(place.parts[-parts:]) + f", {method}" * (place in same) for place in places]
        for parts in range(1, most + 1)
    )
    names = next(names for names in tried if len(set(names)) == len(names) and not set(names) & others.keys())
    return {name: trained_of(run, method) for name, run in zip(names, runs, strict=True)}


def _place(run: str | Path) -> Path:
    return Path(run).expanduser().resolve()


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
