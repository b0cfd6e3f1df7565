"""Is a folder what this very export has made, whole, so that a command that was killed after it may be repeated?"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from knowfuse.export.folder import require_free
from knowfuse.files import sha256_of
from knowfuse.screen import say

NOTE = "knowfuse.json"  # of what the folder was made, and the checksum of each of its files


def checksums(place: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder by its name from there, but of the note; of a file, its own."""
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place).as_posix(): sha256_of(path) for path in files if path.name != NOTE}


def write_note(made_of: Mapping[str, Any], folder: Path) -> None:
    """Say in the folder of what it was made, once all else is there."""
    (folder / NOTE).write_text(_note(made_of, folder), encoding="utf-8")


def may_be_finished(folder: Path) -> None:
    """ValueError where something is there already that is no whole export."""
    if not (folder / NOTE).is_file():
        require_free(folder)


def is_finished(folder: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether the folder is what an export of the same made, unchanged. ValueError where something else is there."""
    if (folder / NOTE).is_file() and (folder / NOTE).read_bytes() == _note(made_of, folder).encode():
        return True
    require_free(folder)
    return False


def say_finished(folder: Path) -> None:
    """That nothing is written again."""
    say(
        f"{folder} is finished: this very command made it before, and no file of it has changed; nothing is written again"
    )


def _note(made_of: Mapping[str, Any], folder: Path) -> str:
    said = {"made_of": {"knowfuse": version("knowfuse"), **made_of}, "files": checksums(folder)}
    return json.dumps(said, indent=1) + "\n"
