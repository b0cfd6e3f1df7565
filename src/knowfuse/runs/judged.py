"""What did the LLMs of a run, or of an evaluation of it, pay on each document, and of which text? Read from the folder that it left."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from knowfuse.evaluation import DOCUMENTS, ByDocument, read_by_document
from knowfuse.files import undamaged, write_whole
from knowfuse.runs.folder import MAY_CHANGE, flat, results_of_one, saved_settings
from knowfuse.text.quoting import path_override
from knowfuse.training.other_settings import within

EVALUATED = "evaluated.yaml"  # in the folder of an evaluation: the settings of its run, and what it was asked about
SAME = {"seed", "name", "cache", "hydra"} | MAY_CHANGE  # settings that do not make runs different
OWN_TEXT = {"split": "test", "corpus": {"files": None}}  # what a run was measured on


@dataclass
class Judged:
    """A folder that `train.py` or `evaluate.py` left."""

    folder: Path
    settings: dict[str, Any]  # of the run
    evaluated: dict[str, Any]  # the text that it was measured on
    unit: str
    scores: ByDocument

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    @property
    def kind(self) -> dict[str, Any]:
        """The settings that make it another run, with dotted names; one that is null is as good as one that an older run lacks."""
        return {key: value for key, value in flat(self.settings).items() if value is not None and not within(key, SAME)}


def save_evaluated(folder: Path, settings: Mapping[str, Any], evaluated: Mapping[str, Any]) -> None:
    """Beside the results of an evaluation: the settings of its run, and the text that it was asked about."""
    kept = OmegaConf.create({"run": dict(settings), "evaluated": dict(evaluated)})
    write_whole(folder / EVALUATED, OmegaConf.to_yaml(kept).encode())


def read_evaluated(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `save_evaluated` has written; ValueError where it is damaged."""
    with undamaged(folder / EVALUATED, "run that evaluate.py once more, and give the folder that it makes"):
        kept: Any = OmegaConf.to_container(OmegaConf.load(folder / EVALUATED))
        return kept["run"], kept["evaluated"]


def judged(place: str) -> Judged:
    """ValueError where the folder is neither a finished run nor an evaluation of one, or has no figures by document."""
    folder = Path(place)
    if not (folder / "results.json").exists() or not is_ours(place):
        raise ValueError(
            f"{place!r} is neither the folder of a finished run nor of an evaluation, nor an LLM: give "
            "outputs/<name>/<date_time>, outputs/evaluate/<date_time>, a folder that transformers loads, or a hub id"
        )
    results = results_of_one(folder)
    if not (folder / DOCUMENTS).exists():
        raise ValueError(
            f"{place!r} has no {DOCUMENTS}, which older versions did not write: run python evaluate.py {path_override('run', place)}, and "
            "compare the folder that it makes"
        )
    if (folder / "config.yaml").exists():
        settings, evaluated = saved_settings(folder), OWN_TEXT
    else:
        settings, evaluated = read_evaluated(folder)
    return Judged(folder, settings, evaluated, results["unit"], read_by_document(folder / DOCUMENTS, results["rows"]))


def is_ours(place: str) -> bool:
    """Whether it is the folder of a run or of an evaluation, whatever state it is in."""
    return any((Path(place) / name).exists() for name in ("config.yaml", EVALUATED))
