"""Is each of a hundred bad inputs answered by what to do, without a traceback, and with nothing changed on disk?

    python benchmarks/bad_inputs.py --page docs/errors.md

Each line of bad_inputs.yaml is run by a shell, in a folder where a user stands: our programs and settings made small, a prepared cache,
a finished run and a stopped one, texts, tokenizers and LLMs that are damaged in one way each. Python is forked from a process that has
imported what takes seconds (tests/command_server.py). Prints JSON: `tried`, `clear` (the exit status is not zero and it says what it is
to say), `tracebacks`, `files_changed` (commands that left something outside the cache), `more_in_the_cache` (those that read a text or
cut it into tokens before the fault could be seen, which the next run finds done), and what is wrong with whom. `--only WORD` runs the
lines that hold it; `--page` writes the page of them all.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from commands_for_tests import environment_with, stand_in  # noqa: E402

ROOMS = [
    "knowfuse.runs.command",
    "knowfuse.runs.experiment",
    "knowfuse.runs.compared",
    "knowfuse.report",
    "knowfuse.plan.memory",
]
CASES = ROOT / "benchmarks" / "bad_inputs.yaml"
HEAD = """# What went wrong?

What our programs say to {number} bad inputs, by where the fault is: each command as it was typed, the message it ended with, the cause, and
the remedy. All of them end with an exit status that is not 0, print no stack (`HYDRA_FULL_ERROR=1` adds it), and change nothing on disk;
what a text or its tokens are, once read, stays in the cache for the next start.
This page is written by `python benchmarks/bad_inputs.py --page docs/errors.md`, which runs them.
"""


@dataclass(frozen=True)
class Case:
    """A line for the shell, and what is wrong with it."""

    area: str
    line: str
    says: str  # must be in what is printed, whatever the line breaks
    cause: str
    remedy: str


@dataclass(frozen=True)
class Outcome:
    """What came of it; `message` is the last thing that was said, without the names of temporary folders."""

    message: str
    is_clear: bool
    has_traceback: bool
    changed: list[str]


def cases() -> list[Case]:
    """All of bad_inputs.yaml."""
    listed = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    return [Case(area, **case) for area, of_area in listed.items() for case in of_area]


def try_all(chosen: Sequence[Case], folder: Path) -> list[Outcome]:
    """Run each in `folder`, which `stand` has filled."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["ALSO_IMPORTED"] = " ".join(ROOMS)  # the server takes it over
    environment = environment_with(KNOWFUSE_CACHE=str(folder / "cache"))
    environment["PATH"] = f"{stand_in().parent}{os.pathsep}{environment['PATH']}"
    outcomes = []
    for n, case in enumerate(chosen, 1):
        outcomes.append(_try(case, folder / "user", environment))
        print(f"{n} of {len(chosen)}: {case.line}\n{outcomes[-1].message}\n", file=sys.stderr, flush=True)
    return outcomes


def _try(case: Case, user: Path, environment: dict[str, str]) -> Outcome:
    before = _state(user.parent)
    done = subprocess.run(
        ["bash", "-c", case.line], cwd=user, env=environment, capture_output=True, text=True, timeout=300
    )
    after = _state(user.parent)
    said = done.stdout + done.stderr
    flat = " ".join(said.split())
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    is_clear = done.returncode != 0 and " ".join(case.says.split()) in flat
    return Outcome(_message(done.stderr or done.stdout, user.parent), is_clear, "Traceback" in said, changed)


def _state(folder: Path) -> dict[str, bytes]:
    """What is in each file, by its path; of one beyond 100 kB its size and time. Locks, which are empty, do not count."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_dir() or path.suffix == ".lock":
            found["tracebacks"] = sum(o.has_traceback for o in outcomes)
    found["files_changed"] = sum(any(not path.startswith("cache/") for path in o.changed) for o in outcomes)
    found["more_in_the_cache"] = sum(any(path.startswith("cache/") for path in o.changed) for o in outcomes)
    print(json.dumps({**found, "wrong": wrong}))


if __name__ == "__main__":
    main()
