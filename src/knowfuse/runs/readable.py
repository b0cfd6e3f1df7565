"""Are the files of settings that a command names YAML? Hydra would show a stack of its parser."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import OmegaConf
from yaml import MarkedYAMLError


def require_readable(words: Sequence[str], conf: Path, config_name: str) -> None:
    """SystemExit that names file, line and fault of the first that is none; of the command's own, and of choices among the words."""
    for file in _named(words, conf, config_name):
        try:
            OmegaConf.load(file)
        except MarkedYAMLError as error:
            mark = error.problem_mark
            at = f", line {mark.line + 1}, column {mark.column + 1}," if mark else ""
            raise SystemExit(
                f"{file.relative_to(conf.parent)}{at} is no YAML ({error.problem or error.context}): indent with spaces, by as many "
                "what stands side by side, give each name once, and put quotes around a value that holds ': '"
            ) from error


def _named(words: Sequence[str], conf: Path, config_name: str) -> Iterator[Path]:
    yield from filter(Path.is_file, [conf / f"{config_name}.yaml"])
    for word in words:
        group, _, choices = word.lstrip("+").partition("=")
        for choice in re.split(r"[\[\],]", choices) if (conf / group.partition("@")[0]).is_dir() else []:
            if choice and (file := conf / group.partition("@")[0] / f"{choice}.yaml").is_file():
                yield file
