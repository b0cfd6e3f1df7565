"""Which alignment, which fusion rule, which divergence, which options of the loss? All from the same traces, chosen on validation.

    python benchmarks/methods.py

Round 1 changes the defaults in one thing at a time: every alignment with its rows, every fusion rule, every divergence, every
other option of the loss. Round 2 tries the best of each, all with all, and the best of those go on to whole schedules and several
seeds, beside the defaults and plain CLM. It goes on where it was stopped; `methods.csv` of `docs/results` has what is done after
each round, and `methods_intervals.csv` the last.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.errors import InstantiationException

from knowfuse.screen import say
from knowfuse.study import (
    Finished,
    Line,
    Point,
    Round,
    Runs,
    asked_of,
    grid,
    halved,
    intervals,
    lines_of,
    lines_of_intervals,
    trained,
    write_lines,
)

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = Point("")  # the quickstart as it is
BYTE_EXACT = [
    Point("byte_exact, rows=shared", {"alignment.rows": "shared"}),
    Point("byte_exact, rows=one_to_one", {"alignment.rows": "one_to_one"}),
    Point("byte_exact, look_ahead=false", {"alignment.look_ahead": False}),
    Point("byte_exact, mask_whitespace", {"alignment.mask_whitespace": True}),
]
FUSIONS = [
    Point("min_ce a sequence", {"fusion": "min_ce", "fusion.granularity": "sequence"}),
    Point("min_ce a token", {"fusion": "min_ce", "fusion.granularity": "token"}),
    Point("avg_ce", {"fusion": "avg_ce"}),
    Point("avg_ce a token", {"fusion": "avg_ce", "fusion.granularity": "token"}),
    Point("static", {"fusion": "static", "fusion.weights": {"llama2": 0.34, "mpt": 0.33, "openllama": 0.33}}),
]
DIVERGENCES = [Point(name, {"loss.divergence": name}) for name in ("reverse_kl", "jensen_shannon")]
OPTIONS = [
    Point("temperature=0.5", {"loss.temperature": 0.5}),
    Point("temperature=2", {"loss.temperature": 2.0}),
    Point("completion=set", {"loss.completion": "set"}),
    Point("balance=match_clm", {"loss.balance": "match_clm"}),
    Point("gate=better", {"loss.gate": "better"}),
]


def alignments() -> list[Point]:
    """Every one of conf/alignment but the default, and the rows of the default."""
    names = sorted(path.stem for path in (ROOT / "conf" / "alignment").glob("*.yaml"))
    others = [Point(name, {"alignment": name}) for name in names if name != "byte_exact"]
    return [*BYTE_EXACT, *others]


def possible(runs: Runs, points: Sequence[Point]) -> list[Point]:
    """Those that train.py does not refuse, such as sets of tokens beside ranks; of the others it is said why."""
    found = []
    for point in points:
        try:
            hydra.utils.instantiate(runs.composed(point, 0), _convert_="all")
        except InstantiationException as error:
            say(f"{point.name}: left out, {error.__cause__ or error}")
        else:
            found.append(point)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs=3, type=int, default=[75, 150, 300], help="of each of the three rounds")
    parser.add_argument(
        "--keep", nargs=5, type=int, default=[3, 2, 2, 2, 3], help="alignments, fusions, divergences, options; of all"
    )
    parser.add_argument("--seeds", type=int, default=5, help="of the last round")
    parser.add_argument("overrides", nargs="*", help="overrides of train.py, after --")
    asked = asked_of(parser, __file__)
    base = Point.of(["experiment=methods", *asked.overrides]).settings
    rounds = [{**base, "trainer.max_steps": n, "trainer.val_check_interval": max(1, n // 6)} for n in asked.steps]
    runs = Runs(root=ROOT)

    tried: list[Line] = []
    axes = []
    for points, keep in zip((alignments(), FUSIONS, DIVERGENCES, OPTIONS), asked.keep, strict=False):
        left, seen = halved(runs, [DEFAULT, *points], [Round(rounds[0], [0], keep)])
        axes.append(left)
        tried += _of_round(1, [run for run in seen[0] if run.point.name or not tried])  # the defaults once
        write_lines(asked.results / "methods.csv", [_said(asked, 1)], tried)
    crossed, seen = halved(runs, possible(runs, grid(*axes)), [Round(rounds[1], [0], asked.keep[-1])])
    tried += _of_round(2, seen[0])
    write_lines(asked.results / "methods.csv", [_said(asked, 2)], tried)
    last = [Point("defaults"), *(point for point in crossed if point.name)]
    runs_of = {point.name: runs.run_all([point.plus(rounds[2])], range(asked.seeds)) for point in last}
    clm = runs.run_all([Point("plain CLM", {**rounds[2], "compare_with_clm": True})], range(asked.seeds))
    tried += _of_round(3, [run for row in runs_of.values() for run in row]) + _of_round(3, clm, "target clm")
    write_lines(asked.results / "methods.csv", [_said(asked, 3)], tried)
    rows = {"plain CLM": trained(clm, "clm"), **{name: trained(row) for name, row in runs_of.items()}}
    found = intervals(rows, "plain CLM")
    write_lines(asked.results / "methods_intervals.csv", [_said(asked, 3)], lines_of_intervals(found))
    print(json.dumps({name: round(row.bits_per_byte["mean"].value, 4) for name, row in found.items()}))


def _said(asked: argparse.Namespace, number: int) -> str:
    """The heading of the tables as far as this round."""
    steps = ", ".join(f"round {n} of {steps} steps" for n, steps in enumerate(asked.steps[:number], 1))
    return f"{asked.command}: {steps}" + (f" and {asked.seeds} seeds" if number == 3 else ", seed 0")


def _of_round(number: int, runs: Sequence[Finished], llm: str = "target fused") -> list[Line]:
    """What was trained in it by this method; the sources say the same in every run."""
    lines = [{"round": number, **line, "point": line["point"] or "defaults"} for line in lines_of(runs)]
    return [line for line in lines if line["llm"] == llm]


if __name__ == "__main__":
    main()
