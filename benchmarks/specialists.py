"""Does fusing pay where specialists are all that is left, and the text that they were tuned on is gone?

    python benchmarks/specialists.py

LLMs with tokenizers of their own, each tuned on one domain, are fused into a target that knows a little of all, on text that
shares no document with theirs; beside it the target learns from the same text by plain CLM. Both choose their rates, and fusion
its gate, on validation with seed 0. In miniature everything is made here; of real LLMs and texts:

    python benchmarks/specialists.py --experiment specialists_135m --specialist-bytes 2000000 --fusion-bytes 350000 \\
        --texts english=english.txt math=gsm8k.jsonl 'code=src/**/*.py' --fields math=question,answer --forget wiki.txt \\
        --llms english=google/gemma-3-270m math=HuggingFaceTB/SmolLM2-135M code=Qwen/Qwen2.5-Coder-0.5B \\
        --target HuggingFaceTB/SmolLM2-135M

It goes on where it was stopped; its tables are `<experiment>.csv` and `<experiment>_intervals.csv` of `docs/results`.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specialist_llms import Cast, cast

from knowfuse.report.results import tokens_to_clm_final
from knowfuse.runs.compared import judged
from knowfuse.screen import quiet_libraries
from knowfuse.study import (
    Finished,
    Point,
    Runs,
    asked_of,
    axis,
    intervals,
    lines_of,
    lines_of_intervals,
    trained,
    write_lines,
)

ROOT = Path(__file__).resolve().parent.parent
CLM, FUSED = "plain CLM", "fused"
METHODS = ("clm", "fused", "before")


def tuned(runs: Runs, ours: Cast, rates: Sequence[float], gates: Sequence[str]) -> Point:
    """The settings with which both methods do best on validation, seed 0: their rates, and the gate of the fused fit."""
    both = {"learning_rates": list(rates), "clm_learning_rates": list(rates)}
    points = [ours.point + gate.plus(both) for gate in axis("loss.gate", gates)]
    alone = [point.plus({"compare_with_clm": False}) for point in points[1:]]  # plain CLM has no gate
    tried = runs.run_all([points[0], *alone], [0])
    best = min(tried, key=lambda run: run.fits["fused"].best_bits_per_byte)
    clm = tried[0].fits["clm"]
    own = {"learning_rates": [best.fits["fused"].learning_rate], "clm_learning_rates": [clm.learning_rate]}
    return Point(FUSED, {**best.point.settings, **own, "compare_with_clm": True})


def measured(runs: Runs, done: Sequence[Finished], forget: Path, tasks: Sequence[str]) -> dict[str, Any]:
    """What is printed: fused against plain CLM on the test side, on text that the target knew, and on tasks."""
    clm, fused = ([run.results["rows"][f"target {method}"]["mean"] for run in done] for method in ("clm", "fused"))
    both = {CLM: trained(done, "clm"), FUSED: trained(done)}
    more = intervals(both, CLM)[FUSED].more_than_baseline["mean"]
    sooner = [tokens_to_clm_final(run.fits) or 0.0 for run in done]
    known = [judged(str(runs.evaluated(run, "forgetting", {"corpus.files": {"known": [str(forget)]}}))) for run in done]
    kept = {
        m: statistics.fmean(each.scores.shared().bits_per_byte(f"target {m}")["known"] for each in known)
        for m in METHODS
    }
    return {
        "seeds": len(done),
        "wins_over_clm": sum(ours < theirs for ours, theirs in zip(fused, clm, strict=True)),
        "gain_bits_per_byte": -more.value,
        "gain_interval": [-more.high, -more.low],
        "tokens_to_clm_best": statistics.fmean(sooner) if all(sooner) else None,  # None: one never got there
        **{f"forgetting_{method}": kept[method] - kept["before"] for method in ("fused", "clm")},
        "answers_bits_per_byte_gain": answers_gain(runs, done, tasks) if tasks else None,
    }


def answers_gain(runs: Runs, done: Sequence[Finished], tasks: Sequence[str]) -> float:
    """How many bits per byte of the gold answers the fused target pays less than plain CLM's, mean over tasks and seeds."""
    gains = []
    for run in done:
        folder = runs.evaluated(run, "answers", {"tasks": list(tasks)})
        said = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
        gold = {
            m: [answers["gold_bits_per_byte"] for answers in said[f"target {m}"].values()] for m in ("clm", "fused")
        }
        if None in gold["clm"]:
            raise ValueError(
                f"--tasks has one without a text for its gold answer, so nothing of it counts in bits: {list(tasks)}"
            )
        gains += [ours - theirs for ours, theirs in zip(gold["clm"], gold["fused"], strict=True)]
    return statistics.fmean(gains)


def arguments(line: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command line; it ends the program where they do not go together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="specialists", help="of conf/experiment")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--texts", nargs="+", default=[], help="domain=file or pattern; none: the quickstart's, in miniature"
    )
    parser.add_argument("--fields", nargs="+", default=[], help="domain=field,field of .jsonl and .parquet")
    parser.add_argument("--llms", nargs="+", default=[], help="domain=folder or hub id, which is tuned on that domain")
    parser.add_argument("--target", help="folder or hub id")
    parser.add_argument("--forget", help="file of text that the target knew and neither text has")
    parser.add_argument("--tasks", nargs="+", default=[], help="of lm-evaluation-harness, by name or YAML file")
    parser.add_argument("--fusion-bytes", type=int, default=150_000, help="a domain, validation and test among them")
    parser.add_argument("--specialist-bytes", type=int, default=300_000, help="a domain")
    parser.add_argument("--specialist-steps", type=int, default=200)
    parser.add_argument("--specialist-rate", type=float, default=1e-3)
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 2e-3], help="among which validation chooses")
    parser.add_argument("--gates", nargs="+", default=["none"], help="of the fused fit, likewise")
    parser.add_argument("--quickstart", nargs="*", default=[], help="overrides of the LLMs and texts in miniature")
    parser.add_argument("overrides", nargs="*", help="overrides of train.py, after --")
    asked = asked_of(parser, __file__, line)
    asked.texts = {domain: [file] for domain, file in _pairs(parser, "--texts", asked.texts).items()}
    asked.fields = {domain: names.split(",") for domain, names in _pairs(parser, "--fields", asked.fields).items()}
    asked.llms = _pairs(parser, "--llms", asked.llms)
    given = [name for name in ("texts", "llms", "target", "forget") if getattr(asked, name)]
    if given and len(given) < 4:
        parser.error(f"--{given[0]} is set: give all of --texts, --llms, --target and --forget, or none of them")
    if asked.texts.keys() != asked.llms.keys():
        parser.error(
            f"--texts has domains {list(asked.texts)} and --llms {list(asked.llms)}: give one LLM for each domain"
        )
    return asked


def _pairs(parser: argparse.ArgumentParser, name: str, given: Sequence[str]) -> dict[str, str]:
    if wrong := [one for one in given if "=" not in one]:
        parser.error(f"{name} has {wrong[0]!r}: it must be domain=..., such as math=gsm8k.jsonl")
    return {domain: value for domain, _, value in (one.partition("=") for one in given)}


def study(runs: Runs, asked: argparse.Namespace) -> dict[str, Any]:
    """Run it, or go on with it, and write its tables; what is printed."""
    ours = cast(runs, asked)
    done = runs.run_all([tuned(runs, ours, asked.rates, asked.gates)], range(asked.seeds))
    figures = measured(runs, done, ours.forgetting, asked.tasks)
    rows = {CLM: trained(done, "clm"), FUSED: trained(done), "target before": [(done[0].judged, "target before")]}
    rows |= {f"specialist {domain}": [(done[0].judged, domain)] for domain in ours.specialists}
    how = [
        f"{asked.command}, rates {asked.rates}, gates {asked.gates}: specialists of {asked.specialist_bytes:,} bytes and "
        f"{asked.specialist_steps} steps, {asked.fusion_bytes:,} bytes a domain to fuse on with its validation and test, {asked.seeds} seeds",
        json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}),
    ]
    settings = ["loss.gate", "learning_rates", "clm_learning_rates"]
    write_lines(asked.results / f"{asked.experiment}.csv", how, lines_of(done, settings))
    write_lines(asked.results / f"{asked.experiment}_intervals.csv", how, lines_of_intervals(intervals(rows, CLM)))
    return figures


def main() -> None:
    asked = arguments()
    quiet_libraries()
    print(json.dumps(study(Runs(root=ROOT), asked)))


if __name__ == "__main__":
    main()
