"""What does a W&B sweep agent say on the command line, and what is that in Hydra's words?

The agent prints the value of each parameter as Python does: `None`, `True`, `{'lr': 0.1}` for nested parameters.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from knowfuse.text.quoting import literal


def in_hydras_words(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The arguments of a command that an agent started (`WANDB_SWEEP_ID` is set), for Hydra; of any other as they are.

    `None` is null, and nested parameters of a group are settings of their own, `fusion.unit=byte`. What Python would not read stays
    as it is.
    """
    if "WANDB_SWEEP_ID" not in environment:
        return list(arguments)
    return [word for argument in arguments for word in _words(argument)]


def _words(argument: str) -> Iterator[str]:
    setting, equals, text = argument.partition("=")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        yield argument
        return
    if not equals or not isinstance(value, Mapping | list | tuple | bool | None):
        yield argument
        return
    try:
        yield from [f"{name}={literal(item)}" for name, item in _settings(setting, value).items()]
    except KeyError:  # a name that Hydra has no form for: it says so itself
        yield argument


def _settings(name: str, value: Any) -> Mapping[str, Any]:
    """A name without a dot may be a group's, which takes no dictionary: its settings."""
    return (
        {f"{name}.{key}": item for key, item in value.items()}
        if isinstance(value, Mapping) and "." not in name
        else {name: value}
    )
