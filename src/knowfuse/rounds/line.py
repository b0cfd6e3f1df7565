"""What is done in each round, and what comes out of it? Finished rounds are read, a stopped one goes on, nothing is done twice.

The first round trains the target on the given text. After it, and after each but the last, the target writes documents, and the next
round trains it on from there, on them and on the given text. A round is a run of `train.py` in a folder that is named by its
settings, as those of studies; what was written is in the cache, by what decides it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import OmegaConf

from knowfuse.rollouts import Asked, Sampling, rollouts_of, saved_target
from knowfuse.runs.trained import Trained, trained_of
from knowfuse.screen import say
from knowfuse.study import Finished, Line, Point, Runs

METHOD = "fused"
SEEDS = 1000  # more than anyone has rounds: the chance of no round is that of another, of this seed or of the next


@dataclass(frozen=True)
class Writing:
    """What the target writes after each round but the last; None, and it trains on the given text alone."""

    sampling: Sampling = field(default_factory=Sampling)
    asked: Asked = field(default_factory=Asked)


def rounds(
    runs: Runs, point: Point, number: int, writing: Writing | None, seed: int = 0
) -> Iterator[tuple[Finished, Line]]:
    """The run of each round as it is finished, and its line: what was trained on, and bits per byte.

    ValueError for no round at all, and for whatever `train.py` and `rollouts_of` refuse.
    """
    if type(number) is not int or number < 1:
        raise ValueError(f"rounds is {number!r}: it must be a whole number above 0")
    at = _without(point, "own")
    for n in range(1, number + 1):
        say(f"round {n} of {number}")
        run = runs.run(at, seed)
        yield run, _line(n, run)
        if n == number:
            return
        trained = trained_of(run.folder, METHOD)
        at = next_point(_without(point, "own") if writing is None else point, _target(runs, point, seed, trained))
        if writing is not None:
            written = rollouts_of(trained, round_sampling(writing, n, seed), writing.asked)
            at = at.plus({"own.rollouts": [str(written.folder)]})


def round_sampling(writing: Writing, number: int, seed: int = 0) -> Sampling:
    """By which the target writes after this round, with a chance that is no other round's."""
    return replace(writing.sampling, seed=SEEDS * seed + number)


def next_point(point: Point, target: dict[str, Any]) -> Point:
    """The same with this target, however it was set before."""
    return _without(point, "target").plus({"target": target})


def _without(point: Point, group: str) -> Point:
    """The same but for a group: `own` where there is nothing of its own, so that how much of it counts changes nothing."""
    settings = point.settings.items()
    return Point(point.name, {key: value for key, value in settings if key.lstrip("+~").partition(".")[0] != group})


def _target(runs: Runs, point: Point, seed: int, trained: Trained) -> dict[str, Any]:
    """The settings of the target, whatever they were, from now on: the same but for where its weights are."""
    before: Any = OmegaConf.to_container(runs.composed(point, seed).target, resolve=True)
    own = dict.fromkeys(("recipe", "gguf_file", "tokenizer", "revision"))
    return {**before, **own, "path": str(saved_target(trained).folder)}


def _line(number: int, run: Finished) -> Line:
    fit, said = run.fits[METHOD], run.fits[METHOD].sources or {}
    labelled = said.get("labelled", {})
    own = labelled.get("own", 0)
    return {
        "round": number,
        "own": own / max(1, sum(labelled.values())),
        "validation": fit.best_bits_per_byte,
        **run.results["rows"][f"target {METHOD}"],
        "run": run.folder.name,
    }
