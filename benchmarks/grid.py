"""Which learning rate and how many steps does each method want? One grid for both, chosen on validation.

    python benchmarks/grid.py

The defaults of `conf/train.yaml` are each method's best here, so that plain CLM is a baseline as well tuned as the
fused run. Every fit has a whole schedule of its own number of steps; its figure is its best checkpoint's bits per byte
on validation, mean over the bytes of the three domains. Test is not looked at.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("clm", "fused")


def run(steps: int, rates: list[str], folder: Path, overrides: list[str]) -> dict[tuple[str, str], float]:
    """Best validation bits per byte of every (method, learning rate) at one number of steps."""
    listed = f"[{','.join(rates)}]"
    settings = [f"trainer.max_steps={steps}", f"learning_rates={listed}", "clm_learning_rates=null"]
    command = [sys.executable, "train.py", f"hydra.run.dir={folder}", *settings, *overrides]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr, env=dict(os.environ))
    fits = [json.loads(path.read_text()) for path in folder.glob("fits/*/fit.json")]
    by_value = {float(rate): rate for rate in rates}
    return {(fit["name"].split("-")[0], by_value[fit["learning_rate"]]): fit["best_bits_per_byte"] for fit in fits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learning-rates", nargs="+", default=["5e-4", "1e-3", "2e-3", "3e-3"])
    parser.add_argument("--steps", nargs="+", type=int, default=[150, 300, 600])
    parser.add_argument("overrides", nargs="*", help="overrides of train.py, after --")
    arguments = parser.parse_args()

    bits: dict[tuple[str, str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for steps in arguments.steps:
            found = run(steps, arguments.learning_rates, Path(folder) / str(steps), arguments.overrides)
            bits |= {(method, rate, steps): value for (method, rate), value in found.items()}

    table = Table(
        "method", "learning rate", *(f"{s} steps" for s in arguments.steps), title="validation, bits per byte"
    )
    for method in METHODS:
        for rate in arguments.learning_rates:
            table.add_row(method, rate, *(f"{bits[method, rate, steps]:.3f}" for steps in arguments.steps))
    Console().print(table)

    figures = {}
    for method in METHODS:
        cells = {f"{rate} x {steps}": round(bits[method, rate, steps], 4) for m, rate, steps in bits if m == method}
        best = min(cells, key=lambda cell: cells[cell])
        figures[method] = {"best": best, "bits_per_byte": cells[best], "grid": cells}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
