"""Where does fusing pay? Plain CLM and the fused run over amounts of fresh text and passes over it, and a picture of the border.

    python benchmarks/regime.py
    python benchmarks/regime.py --name regime_smollm2 --shares 0.02 0.05 -- experiment=regime 'corpus.files={mine: [mine.txt]}'

The first is the quickstart with 300,000 bytes a domain, of which each run has a share; sources, validation and test are the
same for all. Every run is one of `train.py` under outputs/studies: the study goes on where it was stopped. Both methods have
the learning rates of the base, each its own list, and keep their best on validation. The table and the picture go to
docs/results; the last line is JSON.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import hydra
import matplotlib
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure

from knowfuse.runs.experiment import Experiment
from knowfuse.runs.headroom import validation_headroom
from knowfuse.study import Finished, Line, Point, Runs, ahead_to_its_best, asked_of, write_lines

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ["corpus.fusion_bytes=300000"]
SHARES, PASSES = [1 / 15, 1 / 5, 1 / 3, 1.0], [1, 2, 4, 8]
VALIDATIONS = 6  # of each fit, as many as the quickstart has


def experiment_of(overrides: Sequence[str]) -> Experiment:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return hydra.utils.instantiate(compose("train", list(overrides)), _convert_="all")


def points_of(
    experiment: Experiment, base: Sequence[str], shares: Sequence[float], passes: Sequence[int], most_steps: int
) -> list[tuple[Point, Line]]:
    """Each place of the grid, by how long it takes, and what its line begins with; those of more than `most_steps` are left out."""
    found = []
    for share in shares:
        small = replace(experiment, fusion_share=share)
        blocks = small.data(small.prepare(), "clm").train_blocks
        for times in passes:
            steps = max(VALIDATIONS, times * len(blocks) // small.batch_blocks)
            settings = {"trainer.max_steps": steps, "trainer.val_check_interval": steps // VALIDATIONS}
            settings |= {"fusion_share": round(share, 6), "trainer.log_every_n_steps": 50}
            point = Point.of(list(base)).plus(settings)
            line: Line = {"fresh_tokens": blocks.num_tokens, "passes": times, "steps": steps}
            found.append((point, line))
    return sorted((f for f in found if int(f[1]["steps"] or 0) <= most_steps), key=lambda f: int(f[1]["steps"] or 0))


def line_of(begins: Line, run: Finished, oracle_bits: float) -> Line:
    """One run: both methods at their best on validation, and on test; the gain is CLM's figure less the fused one's."""
    line = {**begins, "seed": run.seed, "oracle": oracle_bits}
    for method, fit in run.fits.items():
        line |= {f"{method}_learning_rate": fit.learning_rate, f"{method}_validation": fit.best_bits_per_byte}
        line[f"{method}_test"] = run.results["rows"][f"target {method}"]["mean"]
    clm, fused = run.fits["clm"], run.fits["fused"]
    line["gain_validation"] = clm.best_bits_per_byte - fused.best_bits_per_byte
    line["gain_test"] = float(line["clm_test"] or 0) - float(line["fused_test"] or 0)
    line["ahead_of_clm_to_its_best"] = ahead_to_its_best(fused, clm)
    return line


def picture(lines: Sequence[Line], title: str) -> Figure:
    """The gain of each place, blue where fusing won, and the line where CLM reaches the oracle."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    tokens, passes, gains = (
        [float(line[key] or 0) for line in lines] for key in ("fresh_tokens", "passes", "gain_test")
    )
    most = max(0.02, *map(abs, gains))
    places = axes.scatter(tokens, passes, c=gains, cmap="RdBu", vmin=-most, vmax=most, s=900, edgecolors="0.4")
    for x, y, gain, line in zip(tokens, passes, gains, lines, strict=True):
        above = float(line["clm_validation"] or 0) > float(line["oracle"] or 0)
        shown = f"{gain:+.3f}\n{'>' if above else '<'}"
        colour = "white" if abs(gain) > most / 2 else "black"  # on a dark place
        axes.annotate(shown, (x, y), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.margins(0.15)
    axes.set_xticks(sorted(set(tokens)), [f"{t:,.0f}" for t in sorted(set(tokens))], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.set_yticks(sorted(set(passes)), [f"{p:g}" for p in sorted(set(passes))])
    axes.set_yticks([], minor=True)
    axes.set_xlabel("fresh tokens of the target")
    axes.set_ylabel("passes over them")
    axes.set_title(
        f"{title}: bits per byte below CLM on test\n> CLM ends above the oracle over the sources, < below", fontsize=9
    )
    figure.colorbar(places, label="gain of fusing")
    return figure


def arguments(line: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="regime_quickstart", help="of the files in --results")
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES, help="of the fusion text")
    parser.add_argument("--passes", nargs="+", type=int, default=PASSES, help="over it")
    parser.add_argument("--most-steps", type=int, default=1500, help="places that take more are left out")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "base", nargs="*", help="overrides of train.py, after --; the quickstart's where there are none"
    )
    return asked_of(parser, __file__, line)


def study(runs: Runs, asked: argparse.Namespace) -> dict[str, float]:
    """Runs what is missing, and writes table and picture; how often the rule was right, and the worst gain."""
    base = asked.base or QUICKSTART
    experiment = experiment_of(base if runs.cache is None else [*base, f"cache={runs.cache}"])
    points = points_of(experiment, base, asked.shares, asked.passes, asked.most_steps)
    known = validation_headroom(experiment.prepare()).oracle
    heading = [f"{asked.command}: bits per byte; means of the domains on test"]
    asked.results.mkdir(parents=True, exist_ok=True)
    lines: list[Line] = []
    for seed in asked.seeds:
        for point, begins in points:
            lines.append(line_of(begins, runs.run(point, seed), known))
            write_lines(asked.results / f"{asked.name}.csv", heading, lines)
    picture(lines, asked.name).savefig(asked.results / f"{asked.name}.png", dpi=120)
    gains = [(float(line["gain_validation"] or 0), float(line["clm_validation"] or 0) > known) for line in lines]
    worst = min(float(line["gain_test"] or 0) for line in lines)
    return {
        "places": len(lines),
        "rule_right": sum((gain > 0) == pays for gain, pays in gains),
        "worst_gain": round(worst, 4),
    }


if __name__ == "__main__":
    print(json.dumps(study(Runs(root=ROOT), arguments())))
