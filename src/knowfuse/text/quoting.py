"""How does a setting stand on the command line? Quoted for Hydra, and then for the shell."""

import re
import shlex
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any


def path_override(setting: str, path: str | PathLike[str]) -> str:
    """`setting=path` as one word to paste, whatever the path is called."""
    return shlex.quote(f"{setting}={literal(fspath(path))}")


def override(setting: str, value: Any) -> str | None:
    """`setting=value` as one word to paste behind `python train.py`; None where Hydra's grammar has no form for it.

    Names that hold spaces, commas, brackets or letters outside ASCII are in double quotes, all of it in single ones.
    """
    try:
        return shlex.quote(f"{setting}={literal(value)}")
    except KeyError:
        return None


def literal(value: Any) -> str:
    """As Hydra 1.3 reads it. KeyError for a key with other than letters, digits, _ and -, which it cannot read."""
    if isinstance(value, Mapping):
        for key in value:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", str(key)):
                raise KeyError(key)
        return "{" + ", ".join(f"{key}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, str):
        return value if _is_plain(value) else _quoted(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _is_plain(text: str) -> bool:
    """Whether it reads as itself without quotes, and not as a number or another word of the grammar."""
    is_word = re.fullmatch(r"(?:[A-Za-z_/]|\.{1,2}/)[A-Za-z0-9_./-]*", text) is not None
    return is_word and text.lower() not in ("null", "true", "false", "nan", "inf")


def _quoted(text: str) -> str:
    """In double quotes: a quote inside, and the backslashes right before one, each take a backslash."""
    escaped = re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'
