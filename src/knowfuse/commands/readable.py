"""Are the files that a command chooses YAML, of settings, and is what they choose there? Hydra shows a stack, or says less."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import MarkedYAMLError

from knowfuse.settings import LIKE

GLOBAL = "_global_"  # the package of settings of the root


def require_readable(words: Sequence[str], conf: Path, config_name: str) -> None:
    """SystemExit that names the file, and the line or the entry, of the first that is not.

    Those of the command's own, of choices among the words, and of what these choose by their defaults.
    """
    left, seen = [conf / f"{config_name}.yaml", *_named(words, conf)], set()
    while left:
        file = left.pop(0)
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        held = _held(file, conf)
        if file.parent != conf:
            _require_package(file, held, conf)
            if _package(file) == GLOBAL:
                _require_groups(file, held, conf)
        left += _chosen(file, held, conf)


def _named(words: Sequence[str], conf: Path) -> Iterator[Path]:
    for word in words:
        group, equals, choices = word.lstrip("+").partition("=")
        folder = conf / group.partition("@")[0]
        several = re.split(r"[\[\],]", choices) if equals and folder.is_dir() else []
        if choices.startswith("["):
            _require_one(word, [folder / f"{choice}.yaml" for choice in several], conf)
        for choice in several:
            if choice == "null":
                raise SystemExit(
                    f"{word}: null is no file of {folder.relative_to(conf.parent)}; leave {group} out, or choose one of {_there(folder)}"
                )
            if choice:
                yield folder / f"{choice}.yaml"


def _require_one(word: str, files: Sequence[Path], conf: Path) -> None:
    """Of several choices at most one makes the group's own object: Hydra would make one of the settings of all."""
    making = [
        file.stem for file in files if file.is_file() and _package(file) is None and "_target_" in _held(file, conf)
    ]
    if len(making) > 1:
        raise SystemExit(
            f"{word}: each of {', '.join(making)} is one of its own, and they do not go together; choose one"
        )


def _held(file: Path, conf: Path) -> Mapping[Any, Any]:
    """What a file holds; references as they are written."""
    where = file.relative_to(conf.parent)
    try:
        held: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except UnicodeDecodeError as error:
        raise SystemExit(f"{where} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}," if mark else ""
        raise SystemExit(
            f"{where}{at} is no YAML ({error.problem or error.context}): indent with spaces, by as many "
            "what stands side by side, give each name once, and put quotes around a value that holds ': '"
        ) from error
    if not isinstance(held, Mapping):
        raise SystemExit(f"{where} holds a list: it must hold settings, each as 'name: value', without a dash")
    return held


def _require_package(file: Path, held: Mapping[Any, Any], conf: Path) -> None:
    """Of a group whose files set what is not the group's own, as experiments do, this one has to say so too."""
    others = [_package(other) == GLOBAL for other in file.parent.glob("*.yaml") if other != file]
    if "_target_" not in held and _package(file) is None and 2 * sum(others) > len(others):
        raise SystemExit(
            f"{file.relative_to(conf.parent)} has to begin with the line '# @package {GLOBAL}', as others there do: without it "
            f"its settings are not those of the run, but of {file.parent.name}"
        )


def _package(file: Path) -> str | None:
    """What a file says among its first comments that its settings are of; None where it does not."""
    found = re.match(r"(?:\s*#.*\n)*?\s*#\s*@package\s+(\S+)", file.read_text(encoding="utf-8", errors="replace"))
    return found and found[1]


def _require_groups(file: Path, held: Mapping[Any, Any], conf: Path) -> None:
    """A name or a list stands where a group has its settings, as a choice does on the command line."""
    for name, value in held.items():
        is_plain = isinstance(value, list) or (isinstance(value, str) and not value.startswith("${"))
        if is_plain and name != "defaults" and _is_group(name, conf):
            said = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else value
            instead = f"; a choice is made by\ndefaults:\n  - override /{name}: {said}"
            raise SystemExit(
                f"{file.relative_to(conf.parent)} has '{name}: {said}', where {name} has settings of its own, which "
                f"--cfg job prints{instead if (conf / name).is_dir() else ''}"
            )


def _is_group(name: str, conf: Path) -> bool:
    """Whether a setting of the root is a mapping in the commands' own files; of one that is in none, whether it has a folder."""
    own = [held[name] for file in conf.glob("*.yaml") if name in (held := _held(file, conf))]
    return all(isinstance(value, Mapping) for value in own) if own else (conf / name).is_dir()


def _chosen(file: Path, held: Mapping[Any, Any], conf: Path) -> Iterator[Path]:
    """The files that its defaults choose. SystemExit where one is not there."""
    where = file.relative_to(conf.parent)
    for entry in held.get("defaults") or []:
        for key, choice in entry.items() if isinstance(entry, Mapping) else []:
            *how, named = str(key).split()
            group = named.partition("@")[0]
            folder = conf / group[1:] if group.startswith("/") else file.parent / group
            if group.lstrip("/").startswith("hydra") or "optional" in how or choice is None or "$" in str(choice):
                continue
            if not folder.is_dir() and (conf / group).is_dir():
                raise SystemExit(
                    f"{where} has '- {key}: {choice}' among its defaults, which would be of {folder.relative_to(conf.parent)}: write "
                    f"'- override /{named}: {choice}'"
                )
            for one in choice if isinstance(choice, list) else [choice]:
                chosen = folder / f"{one}.yaml"
                if not chosen.is_file():
                    raise SystemExit(
                        f"{where} chooses {group.lstrip('/')}: {one}, and there is no {chosen.relative_to(conf.parent)}: {_near(one, folder)}"
                    )
                yield chosen


def _near(choice: str, folder: Path) -> str:
    near = get_close_matches(str(choice), [path.stem for path in folder.glob("*.yaml")], 1, LIKE)
    return f"did you mean {near[0]}?" if near else f"write that file, or choose one of {_there(folder)}"


def _there(folder: Path) -> str:
    return ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
