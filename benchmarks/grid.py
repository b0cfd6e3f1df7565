"""Which learning rate and how many steps does each method want? One grid for both, chosen on validation.

    python benchmarks/grid.py

The defaults of `conf/train.yaml` are each method's best here, so that plain CLM is a baseline as well tuned as the
fused run. Every fit has a whole schedule of its own number of steps; its figure is its best checkpoint's bits per byte
on validation, mean over the bytes of the three domains. Test is not looked at. It goes on where it was stopped.
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from knowfuse.study import Point, Runs

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("clm", "fused")


def bits_of(runs: Runs, steps: int, rates: list[float], overrides: list[str]) -> dict[tuple[str, float], float]:
    """Best validation bits per byte of every (method, learning rate) at one number of steps."""
    settings = {"trainer.max_steps": steps, "learning_rates": rates, "clm_learning_rates": None}
    run = runs.run(Point(f"{steps} steps", settings) + Point.of(overrides))
    fits = [json.loads(path.read_text()) for path in run.folder.glob("fits/*/fit.json")]
    return {(fit["name"].split("-")[0], fit["learning_rate"]): fit["best_bits_per_byte"] for fit in fits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3, 3e-3])
    parser.add_argument("--steps", nargs="+", type=int, default=[150, 300, 600])
    parser.add_argument("overrides", nargs="*", help="overrides of train.py, after --")
    arguments = parser.parse_args()

    bits: dict[tuple[str, float, int], float] = {}
    runs = Runs(root=ROOT)
    for steps in arguments.steps:
        found = bits_of(runs, steps, arguments.learning_rates, arguments.overrides)
        bits |= {(method, rate, steps): value for (method, rate), value in found.items()}

    table = Table(
        "method", "learning rate", *(f"{s} steps" for s in arguments.steps), title="validation, bits per byte"
    )
    for method in METHODS:
        for rate in arguments.learning_rates:
            table.add_row(method, f"{rate:g}", *(f"{bits[method, rate, steps]:.3f}" for steps in arguments.steps))
    Console().print(table)

    figures = {}
    for method in METHODS:
        cells = {f"{rate:g} x {steps}": round(bits[method, rate, steps], 4) for m, rate, steps in bits if m == method}
        best = min(cells, key=lambda cell: cells[cell])
        figures[method] = {"best": best, "bits_per_byte": cells[best], "grid": cells}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
