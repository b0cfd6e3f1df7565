"""What can be chosen, and what does each choice say of itself? As the comments in `conf/` have it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HEAD = """{what}

  {program} GROUP=CHOICE ... SETTING=VALUE ...

Groups, and what each choice is (* is taken unless another is named):
"""
FOOT = """
Settings are `name=value`, of a group with a dot: fusion.granularity=token. `--cfg job` prints all of them, and `--cfg job` with
the words of a command those of that run. Tab completes them: eval "$({program} -sc install=bash)". Values with spaces, `=`,
commas or brackets stand in double quotes within single ones: 'run="outputs/a=1"'. `--multirun` tries several: fusion=min_ce,avg_ce.
`HYDRA_FULL_ERROR=1` adds the stack to an error. The settings one by one: docs/reference.md.
"""


@dataclass(frozen=True)
class Choice:
    """One file of a group; `is_default` where nothing else is named."""

    group: str
    name: str
    says: str  # its first comment
    is_default: bool


def choices(conf: Path, config_name: str) -> Iterator[Choice]:
    """Of the groups of one command, in its order."""
    for group, default in groups(conf, config_name).items():
        for path in sorted((conf / group).glob("*.yaml")):
            yield Choice(group, path.stem, first_comment(path), path.stem == default)


def groups(conf: Path, config_name: str) -> dict[str, str | None]:
    """Each group of a command with the choice that is taken unless another is named."""
    found: dict[str, str | None] = {}
    for entry in _defaults(conf / f"{config_name}.yaml"):
        if isinstance(entry, str) and entry != "_self_":
            found |= groups(conf, entry)
        elif isinstance(entry, dict):
            ((group, default),) = entry.items()
            if not group.startswith("override ") and "@" not in group:
                found[group] = default
    return found


def _defaults(path: Path) -> list[Any]:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", [])


def first_comment(path: Path) -> str:
    """The first sentence of the comment that a file begins with; empty where it begins with none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    while lines and lines[0].startswith("# @"):
        lines.pop(0)
    said = []
    for line in lines:
        if not line.startswith("#"):
            break
        said.append(line.lstrip("# "))
    return re.split(r"(?<=[.;]) (?=[A-Z])", " ".join(said), maxsplit=1)[0].rstrip(".:;")


def shown_choices(conf: Path, config_name: str) -> str:
    """What `--help` prints."""
    (what, *_) = (conf / f"{config_name}.yaml").read_text(encoding="utf-8").splitlines()
    program, _, what = what.removeprefix("# ").partition(": ")
    program = " ".join(word for word in program.split() if "=" not in word)
    lines, group = [HEAD.format(what=what, program=program)], ""
    for choice in choices(conf, config_name):
        if choice.group != group:
            lines.append(f"{choice.group}")
            group = choice.group
        lines.append(f"  {'*' if choice.is_default else ' '} {choice.name:<20} {choice.says}")
    return "\n".join([*lines, FOOT.format(program=program)])
