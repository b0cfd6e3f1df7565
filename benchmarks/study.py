"""Does fusing beat ensembles, weight merging, distillation from one source and plain CLM, and at what cost?

    python benchmarks/study.py

LLMs of one architecture and one tokenizer, so that every rival applies: one small LLM that knows a little of every domain
(`conf/experiment/study.yaml`), and copies of it that were tuned on one domain each. Merging LLMs from different random numbers
would mean nothing. All methods start from the LLM that the copies were tuned from, read the same fusion text, choose on the
same validation text and train equally long. It goes on where it was stopped; its tables are `study.csv` and
`study_intervals.csv` of `docs/results`.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from rivals import Rival, Rivals, as_one_domain

from knowfuse.evaluation import Compared, Ensemble
from knowfuse.llms.local import LocalLLM
from knowfuse.llms.merging import require_mergekit
from knowfuse.screen import quiet_libraries
from knowfuse.study import (
    Finished,
    Line,
    Measured,
    Point,
    Runs,
    as_settings,
    asked_of,
    intervals,
    lines_of,
    lines_of_intervals,
    specialist,
    trained,
    write_lines,
)
from knowfuse.text.corpus import Corpus
from knowfuse.training.materialise import materialise

ROOT = Path(__file__).resolve().parent.parent
FUSED, CLM, MERGED = "fused, min_ce", "plain CLM", "best merge, then"
RULES = (FUSED, "fused, avg_ce", "fused, static")


@dataclass
class Cast:
    """The LLMs of the study, and the text."""

    corpus: Corpus
    cache: Path
    base: LocalLLM
    experts: dict[str, LocalLLM]  # by domain
    similar: dict[str, LocalLLM]  # of the first domain all, from different orders of its text

    @property
    def groups(self) -> dict[str, dict[str, LocalLLM]]:
        two = dict(list(self.experts.items())[:2])
        four = {**self.experts, "base": self.base}
        return {"3 sources": self.experts, "2 sources": two, "4 sources": four, "similar sources": self.similar}


def cast(runs: Runs, point: Point, steps: int, rate: float) -> Cast:
    """Made here, each once; a specialist is tuned for this many steps."""
    experiment = hydra.utils.instantiate(runs.composed(point, 0), _convert_="all")
    cache = Path(experiment.cache).expanduser()
    corpus = experiment.corpus(cache=str(cache))
    every = as_one_domain(corpus, corpus.domains, experiment.target.recipe.domain, "sources")
    base = materialise("base", experiment.target, every, cache)
    how = point.plus({"trainer.max_steps": steps, "trainer.val_check_interval": steps, "learning_rates": [rate]})

    def expert(name: str, domain: str, seed: int) -> LocalLLM:
        return specialist(runs, name, base, as_one_domain(corpus, [domain], domain, "fusion"), how, seed)

    experts = {domain: expert(domain, domain, 0) for domain in corpus.domains}
    first = corpus.domains[0]
    similar = {f"{first}{n}": expert(f"{first}{n}", first, n) for n in (1, 2)}
    return Cast(corpus, cache, base, experts, {first: experts[first], **similar})


def tuned_rates(runs: Runs, point: Point, rates: Sequence[float]) -> Point:
    """The point with its best learning rates on validation, of plain CLM and of the fused fit, with seed 0."""
    run = runs.run(point.plus({"learning_rates": list(rates), "clm_learning_rates": list(rates)}), 0)
    fused, clm = (run.fits[method].learning_rate for method in ("fused", "clm"))
    return point.plus({"learning_rates": [fused], "clm_learning_rates": [clm]})


def points(cast: Cast, tuned: Point, best: str, weights: Mapping[str, float]) -> list[Point]:
    """Everything that learns from sources; the first trains plain CLM beside it, which is the same for all."""

    def of(name: str, sources: Mapping[str, LocalLLM], settings: Mapping[str, Any] | None = None) -> Point:
        own = {"compare_with_clm": name == FUSED, **(settings or {})}
        return Point(name, tuned.settings).plus({**as_settings(cast.base, sources), **own})

    return [
        of(FUSED, cast.experts),
        of("fused, avg_ce", cast.experts, {"fusion": "avg_ce"}),
        of("fused, static", cast.experts, {"fusion": "static", "fusion.weights": dict(weights)}),
        of("distilled from the best source", {best: cast.experts[best]}),
        *(of(f"fused, {group}", llms) for group, llms in cast.groups.items() if llms is not cast.experts),
        *(of(f"fused, K = {k}", cast.experts, {"top_k": k}) for k in (5, 16)),
        of("fused, lambda by headroom", cast.experts, {"lm_weight_schedule": "headroom"}),
    ]


def rivals_of(cast: Cast, rivals: Rivals) -> tuple[list[Rival], LocalLLM]:
    """The base, sources, ensembles and merges, and the best merge of the three sources on validation."""
    named = {"base": cast.base, **{f"source {name}": llm for name, llm in cast.experts.items()}}
    found = [rivals.alone(name, llm) for name, llm in named.items()]
    best: tuple[float, LocalLLM] | None = None
    for group, llms in cast.groups.items():
        found += rivals.ensembles(f"ensemble, {group}", llms)
        for rival, llm in rivals.merges(f"merged, {group}", llms, cast.base):
            found.append(rival)
            if llms is cast.experts and (best is None or rival.validation < best[0]):
                best = rival.validation, llm
    assert best is not None
    return found, best[1]


def best_of(rivals: Sequence[Rival], beginning: str) -> Rival:
    """On validation."""
    return min((rival for rival in rivals if rival.name.startswith(beginning)), key=lambda rival: rival.validation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--specialist-steps", type=int, default=200, help="that each specialist is tuned for")
    parser.add_argument("--specialist-rate", type=float, default=1e-3)
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[3e-4, 1e-3, 2e-3], help="among which validation chooses"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], help=f"rows to train beside {FUSED!r}, {CLM!r} and {MERGED!r}; none: all"
    )
    parser.add_argument("overrides", nargs="*", help="overrides of train.py, after --")
    asked = asked_of(parser, __file__)
    quiet_libraries()
    require_mergekit()
    runs = Runs(root=ROOT)
    point = Point.of(["experiment=study", *asked.overrides])
    ours = cast(runs, point, asked.specialist_steps, asked.specialist_rate)
    rivals = Rivals(ours.corpus, ours.cache, ours.base.load().num_parameters())
    others, merged = rivals_of(ours, rivals)

    experts = point.plus(as_settings(ours.base, ours.experts))
    best = best_of(others, "source").name.removeprefix("source ")
    weights = Ensemble(ours.experts, ours.cache).weights(ours.corpus.split("fusion"))
    places = points(ours, tuned_rates(runs, experts, asked.rates), best, weights)
    places = [place for place in places if not asked.only or place.name in (FUSED, *asked.only)]
    again = point.plus(as_settings(merged, ours.experts))
    places.append(Point(MERGED, tuned_rates(runs, again, asked.rates).settings))
    table = gathered(ours, rivals, others, runs.run_all(places, range(asked.seeds)))
    said = (
        f"{asked.command}: specialists of {asked.specialist_steps} steps at {asked.specialist_rate:g}, "
        f"{asked.seeds} seeds of what is trained, rates {', '.join(f'{rate:g}' for rate in asked.rates)}; `seconds` to read the test "
        "side on one core"
    )
    write_lines(asked.results / "study.csv", [said], table.lines)
    write_lines(asked.results / "study_intervals.csv", [said], lines_of_intervals(table.found, table.more))
    print(json.dumps(table.figures()))


@dataclass
class Table:
    """Every row of the study: its LLMs on the test side, what was chosen by, and what it takes to run."""

    rows: dict[str, list[Measured]]
    more: dict[str, Line]
    lines: list[Line]
    found: dict[str, Compared]

    def best(self, *beginnings: str) -> str:
        """The row with the lowest validation of those that begin so."""
        names = [name for name in self.rows if name.startswith(beginnings)]
        return min(names, key=lambda name: float(self.more[name]["validation"] or "inf"))

    def against(self, name: str, other: str) -> dict[str, Any]:
        """How much more a row pays than another, with its 95 % interval."""
        pair = {key: self.rows[key] for key in (name, other)}
        more = intervals(pair, other)[name].more_than_baseline["mean"]
        figures = {"more": more.value, "low": more.low, "high": more.high}
        return {"row": name, "other": other, **{key: round(value, 4) for key, value in figures.items()}}

    def figures(self) -> dict[str, Any]:
        """What is printed: every row, and the best rule of fusion against the best of its rivals."""
        rows = {}
        for name, row in self.found.items():
            mean = row.bits_per_byte["mean"]
            bits = {"mean": mean.value, "low": mean.low, "high": mean.high}
            rows[name] = {
                **{key: round(value, 4) for key, value in bits.items()},
                "parameters": self.more[name]["parameters"],
            }
        fused = self.best(*RULES)
        return {
            "rows": rows,
            "fused_vs_clm": self.against(fused, CLM),
            "fused_vs_ensemble": self.against(fused, self.best("ensemble, 3 sources")),
            "fused_vs_merge": self.against(fused, self.best("merged, 3 sources")),
            "fused_vs_merge_then_clm": self.against(fused, f"{MERGED} plain CLM"),
        }


def gathered(ours: Cast, rivals: Rivals, others: Sequence[Rival], done: Sequence[Finished]) -> Table:
    """The rivals, which no seed changes, and what was trained."""
    rows: dict[str, list[Measured]] = {rival.name: [(rival.test, rival.name)] for rival in others}
    seconds = rivals.seconds(ours.base)
    more: dict[str, Line] = {
        rival.name: {
            "parameters": rival.parameters,
            "seconds": seconds * rival.parameters / rivals.parameters,
            "knows": rival.knows,
            "validation": rival.validation,
        }
        for rival in others
    }
    by_point = {
        name: [run for run in done if run.point.name == name] for name in dict.fromkeys(r.point.name for r in done)
    }
    fitted = [(name, name, "fused") for name in by_point if name != MERGED]
    fitted += [(CLM, FUSED, "clm"), (f"{MERGED} plain CLM", MERGED, "clm"), (f"{MERGED} fused", MERGED, "fused")]
    for name, point, method in fitted:
        rows[name] = trained(by_point[point], method)
        validation = statistics.fmean(run.fits[method].best_bits_per_byte for run in by_point[point])
        own = {"parameters": rivals.parameters, "seconds": seconds, "validation": validation}
        more[name] = {**own, "knows": "trained on the fusion text"}
    lines = [
        {"point": rival.name, "llm": rival.name, "validation": rival.validation, **_bits(rival)} for rival in others
    ]
    lines = [*lines, *(line for line in lines_of(done, ["top_k", "fusion"]) if line["validation"] is not None)]
    return Table(rows, more, lines, intervals(rows, CLM))


def _bits(rival: Rival) -> Line:
    bits = rival.test.scores.shared().bits_per_byte(rival.name)
    return {**bits, "mean": statistics.fmean(bits.values())}


if __name__ == "__main__":
    main()
