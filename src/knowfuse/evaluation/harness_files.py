"""Which files of lm-evaluation-harness say something of the tasks that are asked?

It has some 14,000, and reads each, with all that it includes, before it answers to a single name, ten seconds long. Here their
words are looked through, in two. Source: `TaskManager` and `TaskIndex` of lm_eval 0.4.13, which find a name in the files given.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

WORD = re.compile(r"""\w[^\s"'\[\]{},]*|\.[^\s"'\[\]{},]+""")
# A key with its value, which may go on for several lines.
STATED = re.compile(r"""^["']?(task|group|tag|include)["']?[ \t]*:(.*(?:\n(?:[ \t]+|-|#).*)*)""", re.MULTILINE)
READ = ("", ".yaml")  # tasks, and the templates that they include


@dataclass(frozen=True)
class HarnessFiles:
    """Relative to the folder of its tasks."""

    folder: Path
    places: dict[str, list[Path]]  # of each word
    including: dict[Path, list[Path]]  # who includes a file
    members: dict[str, list[str]]  # of each group the words where the name of a task would be
    names: set[str]  # of tasks, groups and tags, and some words more

    def link(self, names: Iterable[str], folder: Path) -> None:
        """Links to the files of these names in an empty folder, each where its file is: what the harness is given to read."""
        for file in self.of(names):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).symlink_to(self.folder / file)

    def of(self, names: Iterable[str]) -> list[Path]:
        """Every YAML file that may have a part in one of these tasks, groups or tags.

        It names it, or includes a file that does; of a group the same of each of its members.
        """
        found: set[Path] = set()
        left = list(names)
        seen = set(left)
        while left:
            name = left.pop()
            files = self.places.get(name, [])
            while files:
                found.update(files)
                files = [other for file in files for other in self.including.get(file, []) if other not in found]
            more = self.names.intersection(self.members.get(name, ())) - seen
            seen |= more
            left += more
        return sorted(file for file in found if file.suffix == ".yaml")


@cache
def harness_files(folder: Path) -> HarnessFiles:
    """Of the folder of the harness's tasks; read once a process."""
    places, including, members = defaultdict(list), defaultdict(list), defaultdict(list)
    names: set[str] = set()
    for path in folder.rglob("*"):
        if path.suffix in READ and path.is_file():
            text, file = path.read_text(encoding="utf-8", errors="replace"), path.relative_to(folder)
            for word in set(WORD.findall(text)):
                places[word].append(file)
            stated = {key: WORD.findall(value) for key, value in STATED.findall(text)}
            for other in stated.pop("include", []):
                including[Path(os.path.normpath(file.parent / other))].append(file)
            of_group = stated.pop("task", []) if "group" in stated else []
            for group in stated.get("group", []):
                members[group] += of_group
            alone = of_group if len(of_group) == 1 else []  # that of a task in Python, which may name its group too
            names.update(*stated.values(), alone)
    return HarnessFiles(folder, dict(places), dict(including), dict(members), names)
