"""Which default wins where there is something to gain, and loses nothing where there is not?

    python benchmarks/never_worse.py

The quickstart as it is, with two sources that have hardly been trained, and with more fusion text. At each place: plain CLM with the best of
its rates on validation, and fused fits whose lambda or gate looks at whether the sources still know more. It goes on where it was
stopped; `never_worse.csv` of `docs/results` has a line for each, with every validation of its fit.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from knowfuse.study import Finished, Line, Point, Runs, ahead_to_its_best, asked_of, write_lines

ROOT = Path(__file__).resolve().parent.parent
LARGER = {"corpus.fusion_bytes": 300_000}
WEAK = {
    f"sources.{name}.recipe.max_steps": 150 for name in ("mpt", "openllama")
}  # of 600; the target is a copy of llama2
PLACES = [
    Point("20 kB a domain"),
    Point("20 kB, weak sources", WEAK),
    Point("100 kB", {**LARGER, "fusion_share": 0.333333, "trainer.max_steps": 500, "trainer.val_check_interval": 50}),
    Point("300 kB", {**LARGER, "trainer.max_steps": 1500, "trainer.val_check_interval": 150}),
]
CONSTANT = {"lm_weight_schedule": "constant"}
BETTER = {"loss.gate": "better"}
DEFAULT, CLM = "headroom", "plain CLM"
METHODS = [
    Point(DEFAULT),
    Point("constant", CONSTANT),
    Point("headroom, gate=better", BETTER),
    Point("constant, gate=better", {**CONSTANT, **BETTER}),
]


def place(runs: Runs, where: Point, asked: argparse.Namespace) -> Iterator[Line]:
    """Plain CLM and every method there, the first of which trains CLM beside it."""
    for seed in range(asked.seeds):
        for method in METHODS:
            own = {"compare_with_clm": method.name == DEFAULT, "clm_learning_rates": asked.clm_rates}
            run = runs.run(where + method.plus(own), seed)
            if method.name == DEFAULT:
                clm = run
                yield _line(where, CLM, clm, "clm", clm)
            yield _line(where, method.name, run, "fused", clm)


def _line(where: Point, name: str, run: Finished, method: str, clm: Finished) -> Line:
    fit, beside = run.fits[method], clm.fits["clm"]
    test, its = (one.results["rows"][f"target {by}"]["mean"] for one, by in ((run, method), (clm, "clm")))
    return {
        "place": where.name,
        "method": name,
        "seed": run.seed,
        "learning_rate": fit.learning_rate,
        "validation": fit.best_bits_per_byte,
        "mean": test,
        "more": test - its,
        "more_validation": fit.best_bits_per_byte - beside.best_bits_per_byte,
        "ahead": ahead_to_its_best(fit, beside) if method == "fused" else None,
        "validations": " ".join(f"{bits:.4f}" for _, bits in fit.history),
    }


def worst(lines: Sequence[Line]) -> dict[str, float]:
    """By method: the most that it pays more than plain CLM at any place, on test."""
    by_method: dict[str, float] = {}
    for line in lines:
        name, more = str(line["method"]), float(line["more"] or 0)
        by_method[name] = round(max(more, by_method.get(name, more)), 4)
    return by_method


def arguments(line: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    every = range(len(PLACES))
    parser.add_argument(
        "--places", nargs="+", type=int, choices=every, default=every, help=str({n: PLACES[n].name for n in every})
    )
    parser.add_argument("--clm-rates", nargs="+", type=float, default=[2e-3], help="among which validation chooses")
    return asked_of(parser, __file__, line)


def study(runs: Runs, asked: argparse.Namespace) -> dict[str, float]:
    """Runs what is missing, and writes the table after each fit."""
    rates = ", ".join(f"{rate:g}" for rate in asked.clm_rates)
    said = [f"{asked.command}: {asked.seeds} seeds, rates of plain CLM {rates}; `more` is against plain CLM"]
    lines: list[Line] = []
    for number in asked.places:
        for line in place(runs, PLACES[number], asked):
            lines.append(line)
            write_lines(asked.results / "never_worse.csv", said, lines)
    return worst(lines)


if __name__ == "__main__":
    print(json.dumps(study(Runs(root=ROOT), arguments())))
