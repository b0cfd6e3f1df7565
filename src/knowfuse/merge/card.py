"""What does the card of a merged LLM say? What was merged, how, and how good it is: every number from the runs' own files."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from knowfuse.export.sections import CITATION, PAPER, llms, metadata, text, use
from knowfuse.llms.licences import shown_name
from knowfuse.llms.merging import Merging
from knowfuse.report.compared import markdown
from knowfuse.report.tables import capital, markdown_table
from knowfuse.runs.compared import Comparison
from knowfuse.runs.trained import Trained
from knowfuse.types import LLMSpec

FUSECHAT = "https://arxiv.org/abs/2402.16107"


def merge_card(targets: Mapping[str, Trained], how: Merging, table: Comparison | None, name: str, command: str) -> str:
    """The README.md of the targets merged; `name` is what it is loaded by, `command` what makes it again."""
    first = next(iter(targets.values()))
    target = first.experiment.target
    sources = _sources(targets)
    parts = {
        "": f"{shown_name(target)} was trained {len(targets)} times, each by a run of its own, and these targets were merged in parameter "
        f"space by `{how.method}` ([FuseChat]({FUSECHAT}) fuses so, pair by pair; [knowledge fusion]({PAPER})). Made by knowfuse "
        f"{version('knowfuse')}, with mergekit.\n",
        "Use": use(name, False, target),
        "LLMs": llms({"target": target, **{f"source {source}": spec for source, spec in sources.items()}}, sources),
        "Merged": _merged(targets, how),
        "Text": _texts(targets),
        "Results": _results(table),
        "Run it again": f"```bash\n{command}\n```\n",
    }
    body = "\n".join((f"## {title}\n\n" if title else "") + part for title, part in parts.items())
    head = metadata(first.settings, target, tags=("merge", "mergekit", "arxiv:2402.16107"))
    return f"---\n{head}\n---\n\n# {shown_name(target)}, {len(targets)} targets merged\n\n{body}\n{CITATION}"


def _sources(targets: Mapping[str, Trained]) -> dict[str, LLMSpec]:
    """Of all runs, each once; another LLM of a name that was taken says whose it is."""
    found: dict[str, LLMSpec] = {}
    for run, trained in targets.items():
        for source, spec in trained.experiment.sources.items() if trained.method == "fused" else ():
            found[source if found.get(source, spec) == spec else f"{source} of {run}"] = spec
    return found


def _merged(targets: Mapping[str, Trained], how: Merging) -> str:
    rows = [
        [
            name,
            ", ".join(trained.experiment.sources) if trained.method == "fused" else "none, plain CLM",
            f"{trained.fit.best_bits_per_byte:.4f}",
            f"{min(trained.fit.history, key=lambda point: point[1])[0]:,}",
            _told(how.of(n, len(targets))),
        ]
        for n, (name, trained) in enumerate(targets.items())
    ]
    heading = ["target", "its sources", "bits per byte on validation", "after tokens", "in the merge"]
    drawn = f", seed {how.seed}" if how.method.startswith("dare") else ""
    return f"By `{how.method}` ({_told(how.shared or {}) or 'as mergekit has it'}{drawn}), best checkpoints:\n\n{markdown_table(heading, rows)}\n"


def _told(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in parameters.items())


def _texts(targets: Mapping[str, Trained]) -> str:
    """Once, where all were trained on the same."""
    said = {name: text(trained.settings) for name, trained in targets.items()}
    first = next(iter(said.values()))
    if all(other == first for other in said.values()):
        return first
    return "\n".join(f"{name}:\n\n{its}" for name, its in said.items())


def _results(table: Comparison | None) -> str:
    if table is None:
        return "The runs are over different texts, so their figures do not compare.\n"
    return f"{capital(table.unit)}; lower is better.\n\n{markdown(table)}"
