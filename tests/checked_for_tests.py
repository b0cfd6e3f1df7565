"""Which functions of knowfuse are checked for shapes, and which for types alone?

jaxtyping's import hook (`--jaxtyping-packages`) wraps every function to compare the letters of its shapes; half of the time that
many tests took went into that. A function whose annotations name no array is checked by beartype itself, which says the same.
"""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, get_args

import jaxtyping

_with_shapes = jaxtyping.jaxtyped


def check_shapes_where_they_are() -> None:
    """From now on, of what is imported."""
    jaxtyping.jaxtyped = _checked  # the hook looks it up in every module that it reads


def _checked(*, typechecker: Callable) -> Callable:
    def check(made: Any) -> Any:
        is_plain = isinstance(made, FunctionType) and not inspect.isgeneratorfunction(made)
        if is_plain and not any(map(_names_an_array, made.__annotations__.values())):
            return typechecker(made)
        return _with_shapes(made, typechecker=typechecker)

    return check


def _names_an_array(annotation: Any) -> bool:
    """Whether some part of it is an array with a shape; a string, which is not known yet, may be one."""
    if isinstance(annotation, str):
        return True
    if isinstance(annotation, list | tuple):  # the arguments of a Callable
        return any(map(_names_an_array, annotation))
    is_array = isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)
    return is_array or any(map(_names_an_array, get_args(annotation)))
