"""How is an LLM or a text of the user's own named, where a choice of a group was wanted?"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from knowfuse.text.quoting import literal

TEXTS = (".txt", ".jsonl", ".parquet", ".gz", ".zst")
GUIDE = "docs/guides/your_llms_and_text.md"


def of_your_own(words: Sequence[str], conf: Path, program: str) -> str | None:
    """What to paste where one of these words names an LLM as `target` or `sources`, or a text as `data`; None where none does.

    Every other word is kept.
    """
    has_target = any(word.startswith("target=") for word in words)
    for i, word in enumerate(words):
        group, _, text = word.partition("=")
        named = [name.strip(" \"'") for name in text.strip("[]").split(",")]
        unknown = [name for name in named if name and not (conf / group / f"{name}.yaml").is_file()]
        if unknown and (told := _told(group, unknown, has_target)) is not None:
            what, files, instead = told
            again = f"{program} {shlex.join([*words[:i], *instead, *words[i + 1 :]])}"
            return f"\n{what} ({GUIDE}):\n" + "".join(f"  {line}\n" for line in [*files, again])
    return None


def _told(group: str, named: Sequence[str], has_target: bool) -> tuple[str, list[str], list[str]] | None:
    """What is wanted, the commands that write it, and the words that choose it."""
    first, what = source_name(named[0]), f"{group}= names a file of conf/{group}; "
    if group == "target":
        return f"{what}one for {named[0]}", [target_file(named[0])], [f"target={first}"]
    if group == "sources":
        names = [source_name(path) for path in named]
        choice = "-".join(names)
        files = [_written("sources", choice, *(f"{n}: {spec(path)}" for n, path in zip(names, named, strict=True)))]
        if has_target:
            return f"{what}one for {', '.join(named)}", files, [f"sources={choice}"]
        files.append(_target(first, f"${{sources.{first}}}"))
        return (
            f"{what}one for {', '.join(named)}, the first of them the target",
            files,
            [f"sources={choice}", f"target={first}"],
        )
    if group == "data" and (named[0].endswith(TEXTS) or Path(named[0]).exists()):
        return f"{what}your own text is", [], ["data=text_files", f"corpus.files={literal({'mine': list(named)})}"]
    if group == "data" and re.fullmatch(r"[\w.-]+/[\w.-]+", named[0]):
        datasets = literal({"mine": {"path": named[0]}})
        return f"{what}a data set of the hub is", [], ["data=mixture", f"corpus.datasets={datasets}"]
    return None


def target_file(path: str) -> str:
    """A command that writes the file of `conf/target` for the LLM of this folder or hub id."""
    return _target(source_name(path), spec(path))


def spec(path: str) -> str:
    """The LLM of this folder or hub id, as YAML and Hydra's grammar both read it."""
    return f"{{_target_: knowfuse.types.LLMSpec, path: {literal(path)}}}"


def source_name(path: str) -> str:
    """What an LLM of this folder or hub id may be called, in `sources` and in what refers to it."""
    return re.sub(r"\W+", "_", Path(path).name, flags=re.ASCII).strip("_") or "mine"


def _target(choice: str, value: str) -> str:
    return _written("target", choice, "# @package _global_", f"target: {value}")


def _written(group: str, choice: str, *lines: str) -> str:
    return f"printf '%s\\n' {shlex.join(lines)} > conf/{group}/{choice}.yaml"
