"""Does fusing beat plain CLM and every source, how much sooner, and in what time?

    python benchmarks/quickstart.py --seeds 5

Runs `python train.py` in an empty cache for the first seed (`seconds_from_nothing`), and on that cache for the others
(`seconds_with_caches`, their median). All figures are bits per byte on the test split, means over the three domains,
and means over the seeds; what is tuned is tuned on validation.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from knowfuse.study import Point, Runs

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="overrides of train.py")
    arguments = parser.parse_args()

    table = Table(title="bits per byte on test, mean of three domains")
    for column in ("seed", "best source", "target CLM", "target fused", "gain", "tokens to CLM's final", "seconds"):
        table.add_column(column, justify="right")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder) / "runs", ROOT, cache=Path(folder) / "cache")
        for seed in range(arguments.seeds):
            run = runs.run(Point.of(arguments.overrides), seed)
            results, seconds = run.results, run.seconds
            means = {name: bits["mean"] for name, bits in results["rows"].items()}
            clm, fused = means.pop("target clm"), means.pop("target fused")
            means.pop("target before")
            row = {"source": min(means.values()), "clm": clm, "fused": fused, "seconds": seconds}
            row["sooner"] = results["tokens_to_clm_final"] or 0.0  # 0: the fused run never got there
            rows.append(row)
            table.add_row(
                str(seed),
                *(f"{row[key]:.3f}" for key in ("source", "clm", "fused")),
                f"{clm - fused:.3f}",
                f"{row['sooner']:.2f}",
                f"{seconds:.0f}",
            )
    Console(stderr=False).print(table)

    def mean(key: str) -> float:
        return statistics.fmean(row[key] for row in rows)

    figures = {
        "fused_mean_bpb": mean("fused"),
        "clm_mean_bpb": mean("clm"),
        "best_source_mean_bpb": mean("source"),
        "wins_over_clm": sum(row["fused"] < row["clm"] for row in rows),
        "wins_over_every_source": sum(row["fused"] < row["source"] for row in rows),
        "gain_bits_per_byte": mean("clm") - mean("fused"),
        "tokens_to_clm_final": mean("sooner"),
        "tokens_to_clm_final_by_seed": [round(row["sooner"], 2) for row in rows],
        "seconds_from_nothing": rows[0]["seconds"],
        "seconds_with_caches": statistics.median([row["seconds"] for row in rows[1:]] or [float("nan")]),
    }
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}))


if __name__ == "__main__":
    main()
