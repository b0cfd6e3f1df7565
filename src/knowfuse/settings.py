"""Is a setting what the parameter that it is for says: one of its choices, of its plain type?"""

from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def require_types(called: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """ValueError where a setting is not of the plain type that its parameter has; other types are not looked at."""
    for name, kind in get_type_hints(called).items():
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        if name not in settings or not all(isinstance(k, type) and k in _PLAIN for k in kinds):
            continue
        value = settings[name]
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            wanted = " or ".join(_PLAIN[k] for k in kinds)
            raise ValueError(f"{name} is {value!r}: it must be {wanted}")


def require_choices(called: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """ValueError where a setting is none of the values that its parameter's Literal lists; it names both."""
    for name, kind in get_type_hints(called).items():
        choices = [value for part in (kind, *get_args(kind)) if get_origin(part) is Literal for value in get_args(part)]
        if choices and settings.get(name) is not None and settings[name] not in choices:
            raise ValueError(f"{name} is {settings[name]!r}: choose one of {choices}")
