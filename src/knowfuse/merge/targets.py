"""Which targets are merged? Those that finished runs trained, all from one LLM."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import hydra
from transformers import PreTrainedModel

from knowfuse.llms.licences import shown_name
from knowfuse.llms.local import LocalLLM
from knowfuse.runs.compared import Judged, judged
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.folder import load_fit
from knowfuse.runs.prepared import Prepared
from knowfuse.training.fit import Fit, best_checkpoint


@dataclass
class Trained:
    """The target of a finished run, as one method trained it."""

    run: Path
    method: str
    settings: dict[str, Any]  # of the run
    fit: Fit  # that was kept

    @cached_property
    def experiment(self) -> Experiment:
        return hydra.utils.instantiate(self.settings, _convert_="all")

    @cached_property
    def prepared(self) -> Prepared:
        """Its text, and the LLM that it was trained from."""
        return self.experiment.prepare_target()

    @cached_property
    def judged(self) -> Judged:
        """What every LLM of its run pays on each document."""
        return judged(str(self.run))

    @property
    def checkpoint(self) -> Path:
        """That was kept; ValueError where it is gone."""
        return best_checkpoint(self.run / "fits" / self.fit.name, self.fit)

    @property
    def base(self) -> LocalLLM:
        return self.prepared.target

    def load(self) -> PreTrainedModel:
        """Its best checkpoint, whole, on the CPU."""
        return self.experiment.trained(self.prepared, self.method, self.fit, self.run)


def trained_by(runs: Sequence[str], method: str) -> dict[str, Trained]:
    """The targets of these runs by this method, by the names of their folders, as few parts of them as tell them apart.

    ValueError for a folder of no finished run, for one that is given twice, and for a method that a run has not.
    """
    if twice := next((run for run, count in Counter(map(_place, runs)).items() if count > 1), None):
        raise ValueError(f"run {str(twice)!r} is given twice: give each run once")
    found = {}
    for name, place in zip(_names([_place(run) for run in runs]), runs, strict=True):
        run, settings, fit = load_fit(place, method)
        found[name] = Trained(run, method, settings, fit)
    return found


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
