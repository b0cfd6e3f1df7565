"""What does the card of an exported target say? Where it comes from, how it learnt, how good it is: every number from the run's files."""

import shlex
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from knowfuse.evaluation import baseline_of
from knowfuse.export.sections import CITATION, PAPER, called, llms, metadata, text, use
from knowfuse.llms.licences import shown_name
from knowfuse.losses import LmWeight
from knowfuse.pages import MASS_MEANING
from knowfuse.report.compared import markdown as with_intervals
from knowfuse.report.left import Left
from knowfuse.report.results import markdown as without_intervals
from knowfuse.report.tables import capital, markdown_table
from knowfuse.runs.compared import comparison_of
from knowfuse.training.finished import Fit
from knowfuse.types import LLMSpec


def model_card(
    left: Left, method: str, target: LLMSpec, sources: Mapping[str, LLMSpec], name: str, is_adapter: bool
) -> str:
    """The README.md of a finished run's target, by this method; `name` is what it is loaded by.

    Names of files and folders of this machine are in the command alone, as it was typed.
    """
    assert left.settings is not None
    fit, is_fused = left.fits[method], method == "fused"
    taught = sources if is_fused else {}
    parts = {
        "": _lead(target, taught, fit),
        "Use": use(name, is_adapter, target),
        "LLMs": llms({"target": target, **{f"source {source}": spec for source, spec in taught.items()}}, taught),
        "Text": _text(left.settings, fit),
        "Recipe": _recipe(left.settings, fit, is_fused),
        "Results": _results(left),
        "Who won where": _shares(fit),
        "Where the sources' probability went": _mass(fit),
        "Run it again": _again(left),
    }
    body = "\n".join((f"## {title}\n\n" if title else "") + part for title, part in parts.items() if part)
    title = f"{shown_name(target)}, {'fused' if is_fused else 'trained by plain CLM'}"
    return f"---\n{metadata(left.settings, target, is_adapter)}\n---\n\n# {title}\n\n{body}\n{CITATION}"


def _lead(target: LLMSpec, taught: Mapping[str, LLMSpec], fit: Fit) -> str:
    tokens, bits = min(fit.history, key=lambda point: point[1])
    how = (
        f"learnt from {len(taught)} source LLMs by knowledge fusion ([2401.10491]({PAPER})), each read once in its own tokens"
        if taught
        else "was trained on its text alone, by plain CLM: the baseline that a fused target is compared with"
    )
    return (
        f"{shown_name(target)} {how}. This is its best checkpoint on validation: {bits:.4f} bits per byte after {tokens:,} training "
        f"tokens. Made by knowfuse {version('knowfuse')}.\n"
    )


def _text(settings: Mapping[str, Any], fit: Fit) -> str:
    """What it was made by, and of what share the rows of training were."""
    rows = (fit.sources or {}).get("labelled", {})
    counted = "Tokens learnt up to the last validation: " + ", ".join(
        f"{domain} {n:,.0f}" for domain, n in rows.items()
    )
    return (f"{counted}.\n\n" if rows else "") + text(settings)


def _recipe(settings: Mapping[str, Any], fit: Fit, is_fused: bool) -> str:
    s, trainer = settings, settings["trainer"]
    rows = {
        "learning rate": f"{fit.learning_rate:g} at its peak, {s['schedule']}, {s['warmup_steps']} steps of warm-up",
        "steps": f"{trainer['max_steps']} of {s['batch_blocks']} blocks of {s['block_tokens']} tokens, "
        f"batches a step: {trainer.get('accumulate_grad_batches', 1)}, devices: {trainer.get('devices')}",
        "optimizer": f"{called(s, 'optimizer')}, weight decay {s['weight_decay']:g}",
        "finetune": called(s, "finetune"),
        "precision": str(trainer.get("precision")),
        "seed": str(s["seed"]),
    }
    if is_fused:
        lm_weight = LmWeight(s["lm_weight"], s["lm_weight_schedule"], s["lm_weight_end"])
        to = "" if lm_weight.schedule == "constant" else f" to {lm_weight.last:g}"
        rows = {
            "lambda (weight of CLM)": f"{lm_weight.start:g}{to}, {lm_weight.schedule}",
            "alignment": called(s, "alignment"),
            "fusion": called(s, "fusion"),
            "loss": called(s, "loss"),
            "kept of each source row": f"{s['top_k']} tokens, {s.get('traces', 'topk')}",
            **rows,
        }
    return markdown_table(["", ""], [[key, value] for key, value in rows.items()]) + "\n"


def _results(left: Left) -> str:
    """Every LLM of the run, with intervals where there are figures by document."""
    assert left.results is not None
    if left.documents is None:
        return f"{without_intervals(left.results)}\n\nWithout intervals (documents.csv: {left.why['documents.csv']}).\n"
    nats = {name: paid[None] for name, paid in left.documents.nats.items()}
    found = comparison_of(left.results["unit"], nats, left.documents, baseline_of(left.documents))
    return f"{capital(found.unit)}; lower is better.\n\n{with_intervals(found)}"


def _shares(fit: Fit) -> str:
    """What each source was of the fused target, and where it was aligned, by domain."""
    if fit.sources is None:
        return ""
    domains = list(fit.sources["labelled"])

    def of(what: str) -> str:
        its = fit.sources[what] if fit.sources else {}
        return markdown_table(
            ["", *domains], [[name, *(f"{by.get(d, 0.0):.1%}" for d in domains)] for name, by in its.items()]
        )

    return (
        f"Share of the fused target that each source made, over the rows of training:\n\n{of('share')}\n\n"
        f"Share of these rows on which each source is aligned (coverage):\n\n{of('coverage')}\n"
    )


def _mass(fit: Fit) -> str:
    if fit.sources is None or not fit.sources["mass"]:
        return ""
    budgets = fit.sources["mass"]
    rows = [
        [kind, meaning, *(f"{its[kind]:.1%}" for its in budgets.values())] for kind, meaning in MASS_MEANING.items()
    ]
    return "On the rows where a source is aligned:\n\n" + markdown_table(["", "", *budgets], rows) + "\n"


def _again(left: Left) -> str:
    if left.overrides is None:
        return f"The command is not kept ({left.why['.hydra/overrides.yaml']}).\n"
    return f"```bash\n{shlex.join(['python', 'train.py', *left.overrides])}\n```\n"
