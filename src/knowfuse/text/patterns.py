"""Which files does a name or a pattern mean?"""

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

ANY_DEPTH = "**"


def files_of(pattern: str) -> list[Path]:
    """The files that a pattern such as `src/**/*.py` fits, sorted; `*`, `?` and `[...]` within a name, `**` for folders.

    A part that is the name of something there is that name, whatever letters it has: in `notes [1]/*.txt` only the
    second part is a pattern. Hidden files and folders (.git) fit only where the pattern's part begins with a dot;
    folders that are links are not entered by `**`, which could go round in circles.
    """
    path = Path(pattern).expanduser()
    found = _fitting(Path(path.anchor), [part for part in path.parts if part != path.anchor])
    return sorted({file for file in found if file.is_file()})


def is_pattern(name: str) -> bool:
    """Whether something in it is wild."""
    return any(letter in name for letter in "*?[")


def _fitting(folder: Path, parts: list[str]) -> Iterator[Path]:
    """What is under this folder by these parts."""
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if os.path.lexists(folder / part):
        yield from _fitting(folder / part, rest)
    elif part == ANY_DEPTH:
        for inner in _folders_under(folder):
            yield from _fitting(inner, rest or ["*"])
    elif is_pattern(part):
        for entry in _entries(folder):
            is_hidden = entry.name[0] == "." and part[0] != "."
            if fnmatchcase(entry.name, part) and not is_hidden and (not rest or entry.is_dir()):
                yield from _fitting(folder / entry.name, rest)


def _folders_under(folder: Path) -> Iterator[Path]:
    """This folder and all in it at any depth, but for hidden ones and links."""
    yield folder
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False) and entry.name[0] != ".":
            yield from _folders_under(folder / entry.name)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing where it is none, or may not be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (NotADirectoryError, FileNotFoundError):
        return []
