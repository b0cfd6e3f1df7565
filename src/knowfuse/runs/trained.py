"""What did a finished run train its target to be, and from what? Read from its folder, put together as it is asked for."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import hydra
from transformers import PreTrainedModel

from knowfuse.llms.local import LocalLLM
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.folder import load_fit
from knowfuse.runs.judged import Judged, judged
from knowfuse.runs.prepared import Prepared
from knowfuse.text.own import Own
from knowfuse.training.finished import Fit, best_checkpoint


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
        """Its text as it was given, without what a target wrote, and the LLM that it was trained from."""
        return replace(self.experiment, own=Own()).prepare_target()

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

    def load(self, is_merged: bool = True) -> PreTrainedModel:
        """Its best checkpoint, on the CPU; whole, or with its adapters beside the weights that they were trained on."""
        return self.experiment.trained(self.prepared, self.fit, self.run, is_merged)


def trained_of(place: str | Path, method: str) -> Trained:
    """Of this run; ValueError for what is no finished run, and for a method that it did not train its target by."""
    run, settings, fit = load_fit(place, method)
    return Trained(run, method, settings, fit)
