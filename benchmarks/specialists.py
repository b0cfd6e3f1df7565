"""Does fusing pay where specialists are all that is left, and the text that they were tuned on is gone?

    python benchmarks/specialists.py

LLMs with tokenizers of their own, each tuned on one domain, are fused into a target that knows a little of all, on text that
shares no document with theirs; beside it the target learns from the same text by plain CLM. Both choose their rates, and with
`--steps` how long they train, and fusion its gate, on validation with seed 0. In miniature everything is made here; of real LLMs and texts:

    python benchmarks/specialists.py --experiment specialists_135m --specialist-bytes 2000000 --fusion-bytes 350000 \\
        --texts english=english.txt math=gsm8k.jsonl 'code=src/**/*.py' --fields math=question,answer --forget wiki.txt \\
        --llms english=google/gemma-3-270m math=HuggingFaceTB/SmolLM2-135M code=Qwen/Qwen2.5-Coder-0.5B \\
        --target HuggingFaceTB/SmolLM2-135M

It goes on where it was stopped; its tables are `<experiment>.csv` and `<experiment>_intervals.csv` of `docs/results`.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from specialist_llms import Cast, cast

from knowfuse.evaluation import Compared, Interval, Tasks
from knowfuse.report.results import tokens_to_clm_final
from knowfuse.runs.judged import judged
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
LENGTH = ("trainer.max_steps", "trainer.val_check_interval")


def tuned(runs: Runs, ours: Cast, asked: argparse.Namespace) -> dict[str, list[Finished]]:
    """The runs of each method, a seed each, by what did best on validation with seed 0: steps and rate, and the gate of the
    fused fit. Where both are to train as long they are the same runs."""
    both = {"learning_rates": list(asked.rates), "clm_learning_rates": list(asked.rates)}
    tried: list[Finished] = []
    for length in lengths(runs, ours.point, asked.steps):
        points = [ours.point.plus(length) + gate.plus(both) for gate in axis("loss.gate", asked.gates)]
        alone = [point.plus({"compare_with_clm": False}) for point in points[1:]]  # plain CLM has no gate
        tried += runs.run_all([points[0], *alone], [0])

    def best_of(method: str) -> Finished:
        its = [run for run in tried if method in run.fits]
        return min(its, key=lambda run: run.fits[method].best_bits_per_byte)

    clm, fused = best_of("clm"), best_of("fused")
    rates = {"learning_rates": [fused.fits["fused"].learning_rate]}
    rates |= {"clm_learning_rates": [clm.fits["clm"].learning_rate]}
    are_one = all(clm.point.settings.get(key) == fused.point.settings.get(key) for key in LENGTH)
    points = {
        "clm": Point(CLM, {**(fused if are_one else clm).point.settings, **rates, "compare_with_clm": True}),
        "fused": Point(FUSED, {**fused.point.settings, **rates, "compare_with_clm": are_one}),
    }
    return {method: runs.run_all([point], range(asked.seeds)) for method, point in points.items()}


def lengths(runs: Runs, point: Point, steps: Sequence[int]) -> list[dict[str, int]]:
    """Settings of fits of so many steps, each validated as often as the point's, at its end too; no steps: as the point has it.

    ValueError for steps that cannot be.
    """
    trainer = runs.composed(point, 0).trainer
    times = max(1, trainer.max_steps // trainer.val_check_interval)
    if odd := [n for n in steps if n < 1 or n % times]:
        raise ValueError(
            f"--steps has {odd[0]}: a fit is validated {times} times (trainer.max_steps={trainer.max_steps}, trainer.val_check_interval="
            f"{trainer.val_check_interval}), so give multiples of {times}"
        )
    return [dict(zip(LENGTH, (n, n // times), strict=True)) for n in steps] or [{}]


def measured(
    runs: Runs, done: dict[str, list[Finished]], more: Interval, forget: Path, tasks: Sequence[str]
) -> dict[str, Any]:
    """What is printed: fused against plain CLM on the test side (`more`), on text that the target knew, and on tasks."""
    pairs = [dict(zip(done, its, strict=True)) for its in zip(*done.values(), strict=True)]  # of each seed
    test = [{m: run.results["rows"][f"target {m}"]["mean"] for m, run in pair.items()} for pair in pairs]
    sooner = [tokens_to_clm_final({m: run.fits[m] for m, run in pair.items()}) or 0.0 for pair in pairs]
    return {
        "seeds": len(pairs),
        "wins_over_clm": sum(its["fused"] < its["clm"] for its in test),
        "gain_bits_per_byte": -more.value,
        "gain_interval": [-more.high, -more.low],
        "tokens_to_clm_best": statistics.fmean(sooner) if all(sooner) else None,  # None: one never got there
        **{f"forgetting_{m}": forgotten(runs, done[m], m, forget) for m in ("fused", "clm")},
        "answers_bits_per_byte_gain": answers_gain(runs, pairs, tasks) if tasks else None,
    }


def compared(done: dict[str, list[Finished]], specialists: Iterable[str]) -> dict[str, Compared]:
    """Both methods, the target before and its sources against plain CLM, over the documents that all can read."""
    first = done["fused"][0]
    rows = {CLM: trained(done["clm"], "clm"), FUSED: trained(done["fused"])}
    rows |= {"target before": [(first.judged, "target before")]}
    return intervals(rows | {f"specialist {domain}": [(first.judged, domain)] for domain in specialists}, CLM)


def forgotten(runs: Runs, done: Sequence[Finished], method: str, text: Path) -> float:
    """Bits per byte that the target pays more than before on text that it knew, mean over seeds."""
    more = []
    for run in done:
        folder = runs.evaluated(run, "forgetting", {"corpus.files": {"known": [str(text)]}}, [text])
        scores = judged(str(folder)).scores.shared()
        now, before = (scores.bits_per_byte(f"target {m}")["known"] for m in (method, "before"))
        more.append(now - before)
    return statistics.fmean(more)


def answers_gain(runs: Runs, pairs: Sequence[dict[str, Finished]], tasks: Sequence[str]) -> float:
    """How many bits per byte of the gold answers the fused target pays less than plain CLM's, mean over tasks and seeds."""
    gains = []
    for pair in pairs:
        theirs, ours = (gold_of(runs, run, method, tasks) for method, run in pair.items())
        gains += [clm - fused for clm, fused in zip(theirs, ours, strict=True)]
    return statistics.fmean(gains)


def gold_of(runs: Runs, run: Finished, method: str, tasks: Sequence[str]) -> list[float]:
    """Bits per byte of the gold answers of each task; ValueError where one has no text for them."""
    own = [Path(task) for task in tasks if Path(task).is_file()]
    folder = runs.evaluated(run, "answers", {"tasks": list(tasks)}, own)
    said = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    gold = [answers["gold_bits_per_byte"] for answers in said[f"target {method}"].values()]
    if None in gold:
        raise ValueError(
            f"--tasks has one without a text for its gold answer, so nothing of it counts in bits: {list(tasks)}"
        )
    return gold


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
    parser.add_argument("--steps", nargs="+", type=int, default=[], help="of a fit, likewise; none: trainer.max_steps")
    parser.add_argument("--gates", nargs="+", default=["none"], help="of the fused fit, likewise")
    parser.add_argument("--quickstart", nargs="*", default=[], help="overrides of the LLMs and texts in miniature")
    parser.add_argument("overrides", nargs="*", help="overrides of train.py, after --")
    asked = asked_of(parser, __file__, line)
    asked.texts = {domain: [file] for domain, file in _pairs(parser, "--texts", asked.texts).items()}
    asked.fields = {domain: names.split(",") for domain, names in _pairs(parser, "--fields", asked.fields).items()}
    asked.llms = _pairs(parser, "--llms", asked.llms)
    # Absolute: evaluate.py runs in the project's folder.
    asked.tasks = [str(Path(task).resolve()) if Path(task).is_file() else task for task in asked.tasks]
    if asked.forget and not Path(asked.forget).is_file():
        parser.error(f"--forget has {asked.forget!r}, and there is no such file: give one of text that the target knew")
    asked.forget = asked.forget and str(Path(asked.forget).resolve())
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
    if asked.tasks:
        Tasks(asked.tasks)  # refused before hours of tuning
    ours = cast(runs, asked)
    done = tuned(runs, ours, asked)
    rows = compared(done, ours.specialists)
    figures = measured(runs, done, rows[FUSED].more_than_baseline["mean"], ours.forgetting, asked.tasks)
    how = [
        f"{asked.command}, rates {asked.rates}, gates {asked.gates}: specialists of {asked.specialist_bytes:,} bytes and "
        f"{asked.specialist_steps} steps, {asked.fusion_bytes:,} bytes a domain to fuse on with its validation and test, {asked.seeds} seeds",
        json.dumps({key: _rounded(value) for key, value in figures.items()}),
    ]
    settings = [*(LENGTH[:1] if asked.steps else ()), "loss.gate", "learning_rates", "clm_learning_rates"]
    runs_of_both = {run.folder: run for its in done.values() for run in its}
    lines = lines_of(list(runs_of_both.values()), settings)
    lines = [line for line in lines if (line["point"], line["llm"]) != (CLM, "target fused")]  # of plain CLM's length
    write_lines(asked.results / f"{asked.experiment}.csv", how, lines)
    write_lines(asked.results / f"{asked.experiment}_intervals.csv", how, lines_of_intervals(rows))
    return figures


def _rounded(figure: Any) -> Any:
    if isinstance(figure, list):
        return [_rounded(one) for one in figure]
    return round(figure, 4) if isinstance(figure, float) else figure


def main() -> None:
    asked = arguments()
    quiet_libraries()
    print(json.dumps(study(Runs(root=ROOT), asked)))


if __name__ == "__main__":
    main()
