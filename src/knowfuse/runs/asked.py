"""What is an evaluation asked for, and where may it write?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knowfuse.runs.judged import EVALUATED

# What each kind of evaluation takes; nothing that it does not is passed over in silence.
TAKES = {
    "compare": {"compare", "baseline"},
    "answer": {"run", "model", "cache", "tasks", "evaluation", "limit", "batch_size", "run_code"},
    "score": {"run", "split", "corpus", "trainer", "byte_classes", "completions"},
}
SIDES = ("validation", "test")
EXAMPLES = {"corpus": "files={wiki: [wiki.txt]}", "completions": "domains=[code]"}
PROBED = "probe.json"  # in the folder of a probe
LEFT = (
    "config.yaml",
    "results.json",
    "answers.json",
    "comparison.json",
    EVALUATED,
    PROBED,
)  # by runs, evaluations and probes


def require_asked(cfg: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """`score`, `answer` or `compare`; ValueError where it is not said which, or something is set that it does not take.

    `overrides` are the settings that the user wrote.
    """
    if empty := [name for name in ("corpus", "completions") if cfg[name] is None]:
        raise ValueError(
            f"{empty[0]} is null: leave it out, or set what is in it, such as {empty[0]}.{EXAMPLES[empty[0]]}"
        )
    if sum(cfg[asked] is not None for asked in ("run", "model", "compare")) != 1:
        raise ValueError(
            "say what to evaluate: run=outputs/<name>/<date_time>, model=<folder or hub id> with tasks=, or compare=[<a run>, ...]"
        )
    asks = cfg["tasks"] is not None or cfg["model"] is not None
    kind = "compare" if cfg["compare"] is not None else "answer" if asks else "score"
    heads = {override.partition(".")[0].partition("@")[0] for override in overrides}
    if strange := sorted(heads & {key for keys in TAKES.values() for key in keys} - TAKES[kind]):
        other = next(name for name, keys in TAKES.items() if strange[0] in keys)
        ways = {"compare": "compare=", "answer": "tasks=", "score": "run= alone"}
        raise ValueError(
            f"{strange[0]} is set, which goes with {ways[other]} and not with {ways[kind]}: leave it out"
            + (", or score each run so first, and compare the folders that this makes" if kind == "compare" else "")
        )
    if cfg["run"] is not None and "cache" in overrides:
        raise ValueError("cache is set, and a run has its own: leave it out; it goes with model=")
    for name in ("compare", "tasks"):
        if isinstance(cfg[name], str):
            raise ValueError(f"{name} is {cfg[name]!r}: give a list, {name}=[{cfg[name]}]")
    if kind == "answer" and cfg["tasks"] is None:
        raise ValueError("model= answers tasks, and none is named: add tasks=[...] or evaluation=commonsense")
    if not isinstance(cfg["byte_classes"], bool):
        raise ValueError(f"byte_classes is {cfg['byte_classes']!r}: it must be true or false")
    _require_completions(cfg["completions"], overrides)
    if cfg["split"] not in SIDES:
        raise ValueError(f"split is {cfg['split']!r}: choose one of {list(SIDES)}")
    if cfg["corpus"]["files"] is None and (cuts := sorted(o for o in overrides if o.startswith("corpus."))):
        raise ValueError(
            f"{cuts[0]} is set, and says how other text is read, of which none is named: leave it out, or add corpus.files={{<domain>: [...]}}"
        )
    if cfg["corpus"]["files"] is not None and "split" in overrides:
        raise ValueError("split is a side of the run's own text, and corpus.files is other text: set one of them")
    return kind


def _require_completions(asked: Mapping[str, Any], overrides: Sequence[str]) -> None:
    domains, documents = asked["domains"], asked["documents"]
    if domains is None and "completions.documents" in overrides:
        raise ValueError(
            "completions.documents is set, and no domain is: add completions.domains=[<one of Python code>]"
        )
    if isinstance(domains, str) or (domains is not None and not domains):
        raise ValueError(f"completions.domains is {domains!r}: give a list of domains, such as [code]")
    if isinstance(documents, bool) or not isinstance(documents, int) or documents < 1:
        raise ValueError(f"completions.documents is {documents!r}: it must be an integer, at least 1")


def require_new(folder: Path) -> None:
    """ValueError where a run, an evaluation or a probe is in the folder already."""
    if there := [name for name in LEFT if (folder / name).exists()]:
        raise ValueError(
            f"{str(folder)!r} holds {there[0]} of a run, an evaluation or a probe, and nothing is overwritten: leave hydra.run.dir out, or "
            "set it to another folder"
        )
