"""Whose knowledge arrives: of an LLM with the target's weights, with its tokenizer alone, or with another tokenizer?

    python benchmarks/teachers.py
    python benchmarks/teachers.py --text specialist --steps 600 --rates 1e-3 -- corpus.validation_share=0.08 corpus.test_share=0.15

On one domain each of `specialists` in miniature the target learns from one specialist of that domain, by the KL alone, without a
label: from a copy of itself that was tuned, from an LLM of its tokenizer and shape that began from other random numbers, and from one with
another tokenizer. All were tuned on the same text. Beside them plain CLM. Rates are chosen on validation. Prints JSON: `more_than_clm`
(bits per byte of the test side, above 0 is worse) by domain and teacher, and what `other weights` and `another tokenizer` cost on the mean.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any

import specialists
from specialist_llms import Stage

from knowfuse.screen import quiet_libraries
from knowfuse.study import Line, Runs, as_settings, asked_of, write_lines

OWN, SAME, OTHER = "the target itself", "its tokenizer, other weights", "another tokenizer"
ALONE = {"lm_weight": 0.0, "lm_weight_schedule": "constant"}


def lines(runs: Runs, asked: argparse.Namespace) -> list[Line]:
    """A line for each domain and teacher, `mean` of the test side; the target's own domain, whose specialist has its tokenizer, is left out."""
    stage = Stage(runs, specialists.arguments(asked.miniature))
    target, found = stage.general(stage.domains[0]), []
    for domain in stage.domains[1:]:
        starts = {OWN: target, SAME: stage.general(stage.domains[0], seed=2), OTHER: stage.general(domain)}
        for teacher, start in starts.items():
            point = stage.fused_on(stage.point, [domain], asked.text).plus(
                as_settings(target, {domain: stage.tuned(domain, start)})
            )
            how = {"learning_rates": asked.rates, "clm_learning_rates": asked.rates, "trainer.max_steps": asked.steps}
            how |= {"trainer.val_check_interval": max(1, asked.steps // 6), "compare_with_clm": teacher == OWN}
            for seed in range(asked.seeds):
                run = runs.run(point.plus({**ALONE, **how}), seed)
                its = {"domain": domain, "seed": seed}
                rows = {name: row["mean"] for name, row in run.results["rows"].items()}
                if teacher == OWN:
                    found.append({**its, "teacher": "before", "its_own": None, "mean": rows["target before"]})
                    found.append({**its, "teacher": "plain CLM", "its_own": None, "mean": rows["target clm"]})
                # It was tuned on all of the specialists' text, the test side too.
                own = None if asked.text == "specialist" else rows[domain]
                found.append({**its, "teacher": teacher, "its_own": own, "mean": rows["target fused"]})
    return found


def figures(found: Sequence[Line]) -> dict[str, Any]:
    """What is printed."""
    mean: dict[tuple[str, str], float] = {}
    for key in dict.fromkeys((str(line["domain"]), str(line["teacher"])) for line in found):
        mean[key] = statistics.fmean(float(x["mean"]) for x in found if (x["domain"], x["teacher"]) == key)  # type: ignore[arg-type]
    domains = list(dict.fromkeys(domain for domain, _ in mean))
    return {
        "more_than_clm": {
            d: {t: round(mean[d, t] - mean[d, "plain CLM"], 4) for t in (OWN, SAME, OTHER)} for d in domains
        },
        "other_weights": round(statistics.fmean(mean[d, SAME] - mean[d, OWN] for d in domains), 4),
        "another_tokenizer": round(statistics.fmean(mean[d, OTHER] - mean[d, SAME] for d in domains), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--text", choices=["fusion", "specialist"], default="fusion", help="that the target learns from"
    )
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[1e-4, 3e-4, 1e-3], help="among which validation chooses"
    )
    parser.add_argument("miniature", nargs="*", help="options of specialists.py, after --")
    asked = asked_of(parser, __file__)
    quiet_libraries()
    found = lines(Runs(root=specialists.ROOT), asked)
    printed = json.dumps(figures(found))
    name = "teachers" if asked.text == "fusion" else "teachers_much"
    how = f"{asked.command}: the KL alone, {asked.steps} steps, {asked.seeds} seeds, rates {asked.rates}"
    write_lines(asked.results / f"{name}.csv", [how, printed], found)
    print(printed)


if __name__ == "__main__":
    main()
