"""Writes the pages that are made: every setting from the comments in `conf/` and the signatures behind them, and the licences.

    python docs/written.py            # docs/reference.md and docs/licences.md
    python docs/written.py --check    # exit status 1 where docs/reference.md is not what it would write

What each bad input is answered by, docs/errors.md, is written by benchmarks/bad_inputs.py, which runs them.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from inspect import signature
from pathlib import Path

import yaml
from hydra.utils import get_object
from packaging.requirements import Requirement

from knowfuse.commands.chosen import first_comment, groups

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
COMMANDS = [
    "train",
    "tracing",
    "evaluate",
    "prepare",
    "align_report",
    "plan",
    "probe",
    "export",
    "rollouts",
    "rounds",
    "merge",
]
LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w@./-]+):(?: (?P<value>[^#]*?))?(?: *# (?P<says>.*))?$")


@dataclass(frozen=True)
class Setting:
    """One line of a file in `conf/`: its dotted name, its value as it stands there, and the comment beside or above it."""

    name: str
    value: str
    says: str


def settings_of(path: Path, group: str = "") -> Iterator[Setting]:
    """Of one file; what is Hydra's own, and which function is called, is left out."""
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    text = path.read_text(encoding="utf-8")
    prefix = "" if "@package _global_" in text or not group else f"{group}."
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.strip().lstrip("# "))
            continue
        found = LINE.match(line)
        if found is not None:
            indent, key = len(found["indent"]), found["key"]
            parents = [(i, parent) for i, parent in parents if i < indent]
            name = ".".join([*(parent for _, parent in parents), key])
            value = (found["value"] or "").strip()
            if (value or found["says"]) and not name.startswith(("defaults", "hydra")) and not key.startswith("_"):
                yield Setting(
                    prefix + name,
                    value,
                    found["says"] or (" ".join(above) if parents or path.parent == CONF else ""),
                )
            if not value:
                parents.append((indent, key))
        above = []


def reference() -> str:
    """The page."""
    lines = ["# Every setting", ""]
    lines += [
        "Written by `python docs/written.py` from `conf/`. `python train.py --help` lists the choices, `--cfg job` all values.",
        "",
    ]
    lines += ["## The commands", ""]
    for command in COMMANDS:
        path = CONF / f"{command}.yaml"
        lines += [
            f"### {command}.yaml",
            "",
            path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "),
            "",
            *table(settings_of(path)),
        ]
    for group in [*groups(CONF, "train"), "evaluation", "scale"]:
        lines += [f"## {group}", ""]
        for path in sorted((CONF / group).glob("*.yaml")):
            lines += [
                f"### {group}={path.stem}",
                "",
                first_comment(path) + ".",
                "",
                *called(path),
                *table(settings_of(path, group)),
            ]
    return "\n".join(lines)


def table(settings: Iterator[Setting]) -> list[str]:
    """As Markdown; nothing where there are none."""
    rows = [f"| `{s.name}` | {cell(f'`{s.value}`') if s.value else ''} | {cell(s.says)} |" for s in settings]
    return ["| setting | default | |", "| --- | --- | --- |", *rows, ""] if rows else []


def cell(text: str) -> str:
    """`a | b` within a cell is no column, and `<name>` no tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def called(path: Path) -> list[str]:
    """The function that a choice of a group names, and what it takes."""
    target = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("_target_", "")
    if not target.startswith("knowfuse."):
        return [f"`{target}`", ""] if target else []
    return [f"`{target}({', '.join(signature(get_object(target)).parameters)})`", ""]


def licences() -> str:
    """Every distribution that knowfuse needs, and what theirs need, as far as they are installed here."""
    rows, seen = [], {"knowfuse"}
    waiting = [Requirement(line).name for line in distribution("knowfuse").requires or [] if "extra ==" not in line]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        rows.append(f"| {name} | {licence(found)} |")
        needs = map(Requirement, found.requires or [])
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    head = "# Licences of what knowfuse installs\n\nWritten by `python docs/written.py` from what the packages say of themselves.\n"
    return "\n".join([head, "| package | licence |", "| --- | --- |", *sorted(rows), ""])


def licence(found: Distribution) -> str:
    """As its metadata name it: by SPDX, by a classifier, or in one line of its own."""
    about = found.metadata
    classifiers = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
    return (
        about["License-Expression"]
        or ", ".join(classifiers)
        or (about["License"] or "not said").strip().splitlines()[0]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    page = ROOT / "docs" / "reference.md"
    if parser.parse_args().check:
        return int(page.read_text(encoding="utf-8") != reference())
    page.write_text(reference(), encoding="utf-8")
    (ROOT / "docs" / "licences.md").write_text(licences(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
