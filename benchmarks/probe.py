"""Does the probe tell beforehand whether fusing pays, and by how much?

    python benchmarks/probe.py
    python benchmarks/probe.py --pair gemma3 experiment=regime 'target=${sources.gemma3}' 'corpus.files={mine: [mine.txt]}'

For each pair `python -m knowfuse.probe` with its overrides, then `train.py` with the same under outputs/studies, where a run that
is done is found again. Without `--pair` the pairs are the quickstart with 20,000, 100,000 and 300,000 bytes of fusion text a
domain. `sign_right` counts the pairs whose answer is the measured one: `yes` where fusing gained, `no` where it did not gain more
than it may lose; a probe that leaves it open is not right.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from knowfuse.study import Point, Runs

ROOT = Path(__file__).resolve().parent.parent
PAIRS = {
    "quickstart, 20k": [],
    "quickstart, 100k": ["corpus.fusion_bytes=100000", "trainer.max_steps=700", "trainer.val_check_interval=100"],
    "quickstart, 300k": ["corpus.fusion_bytes=300000", "trainer.max_steps=1500", "trainer.val_check_interval=150"],
}
TIE = 0.005  # bits per byte: a gain below it is none


def probed(overrides: list[str]) -> dict[str, Any]:
    """What `python -m knowfuse.probe` writes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "knowfuse.probe", *overrides, f"hydra.run.dir={folder}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        return json.loads((Path(folder) / "probe.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs="+", action="append", help="a name, and overrides of train.py")
    parser.add_argument("--minutes", type=float, help="of each probe, in place of those of conf/probe.yaml")
    asked = parser.parse_args()
    pairs = {name: overrides for name, *overrides in asked.pair} if asked.pair else PAIRS
    minutes = [] if asked.minutes is None else [f"minutes={asked.minutes}"]

    table = Table("pair", "CLM expected", "reached", "oracle", "gain expected", "measured", "answer", "seconds")
    figures: dict[str, dict[str, float | str]] = {}
    for name, overrides in pairs.items():
        told = probed([*overrides, *minutes])
        run = Runs(root=ROOT).run(Point.of(overrides), 0)
        clm, fused = (run.fits[method].best_bits_per_byte for method in ("clm", "fused"))
        expected, answer = told["payoff"]["gain"], told["answer"]
        figures[name] = {
            "predicted": expected["value"],
            "error": expected["error"],
            "measured": clm - fused,
            "answer": answer,
        }
        table.add_row(
            name,
            f"{told['clm']['value']:.3f} ± {told['clm']['error']:.3f}",
            f"{clm:.3f}",
            f"{told['oracle']['value']:.3f}",
            f"{expected['value']:.3f} ± {expected['error']:.3f}",
            f"{clm - fused:.3f}",
            answer,
            f"{told['seconds']:.0f}",
        )
    Console(stderr=True).print(table)
    right = [its["answer"] == ("yes" if float(its["measured"]) > TIE else "no") for its in figures.values()]
    print(
        json.dumps(
            {
                "pairs": list(figures),
                "predicted_gain": {name: round(float(its["predicted"]), 4) for name, its in figures.items()},
                "predicted_error": {name: round(float(its["error"]), 4) for name, its in figures.items()},
                "measured_gain": {name: round(float(its["measured"]), 4) for name, its in figures.items()},
                "answer": {name: its["answer"] for name, its in figures.items()},
                "sign_right": f"{sum(right)} of {len(right)}",
            }
        )
    )


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
