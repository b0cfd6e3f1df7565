"""Is a setting what the parameter that it is for says: there at all, one of its choices, of its plain type?"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
LIKE = 0.6  # how alike two names must be, of 1, for one to be meant by the other


def require_known(called: Callable[..., Any], settings: Mapping[str, Any], group: str) -> None:
    """ValueError where there is no parameter for a setting of this group; it names the nearest."""
    known = inspect.signature(called).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return
    if strange := [name for name in settings if name not in known]:
        raise ValueError(no_such(f"{group}.{strange[0]}", list(known)))


def no_such(setting: str, known: Sequence[str]) -> str:
    """That `<group>.<name>` does not exist, and which one is nearest; where none is, all that do. So it is of the root's, without a group."""
    group, dot, name = setting.rpartition(".")
    near = get_close_matches(name, known, 1, LIKE)
    others = f"{group} has {', '.join(known)}" if group else "--cfg job prints all that there are"
    return f"there is no setting {setting}: {f'did you mean {group}{dot}{near[0]}?' if near else others}"


def require_types(called: Callable[..., Any], settings: Mapping[str, Any], group: str = "") -> None:
    """ValueError where a setting is not of the plain type that its parameter has; other types are not looked at."""
    for name, kind in _hints(called).items():
        kinds = _parts(kind)
        if name not in settings or not all(isinstance(k, type) and k in _PLAIN for k in kinds):
            continue
        value = settings[name]
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            wanted = " or ".join(_PLAIN[k] for k in kinds)  # type: ignore[index]
            raise ValueError(f"{_dotted(group, name)} is {value!r}: it must be {wanted}")


def require_choices(called: Callable[..., Any], settings: Mapping[str, Any], group: str = "") -> None:
    """ValueError where a setting is none of the values that its parameter's Literal lists; it names both."""
    for name, kind in _hints(called).items():
        choices = [value for part in _parts(kind) if get_origin(part) is Literal for value in get_args(part)]
        if not choices or name not in settings or type(settings[name]) in _parts(kind):
            continue
        if settings[name] not in choices:
            found = "null" if settings[name] is None else repr(settings[name])
            raise ValueError(f"{_dotted(group, name)} is {found}: choose one of {choices}")


def require_made(called: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """ValueError where a name, a number, a list or nothing stands for what a group of settings makes: a function, or an object."""
    for name, kind in _hints(called).items():
        is_made = all(get_origin(part) is Callable or is_dataclass(part) for part in _parts(kind))
        if is_made and isinstance(settings[name], str | int | float | list | None):
            raise ValueError(
                f"{name} is {settings[name]!r}: it must be settings with a _target_, as --cfg job prints them"
            )


def _hints(called: Callable[..., Any]) -> dict[str, Any]:
    """Of a function, or of what makes an object; none where its module does not say them at run time."""
    is_plain_class = inspect.isclass(called) and not is_dataclass(called)
    try:
        return get_type_hints(called.__init__ if is_plain_class else called)  # type: ignore[misc]
    except NameError:
        return {}


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _dotted(group: str, name: str) -> str:
    return f"{group}.{name}" if group else name
