"""How are the functions of knowfuse checked for types and shapes?

jaxtyping's import hook (`--jaxtyping-packages`) wraps every function to compare the letters of its shapes, and checks the arguments
twice: before the call, and once more with what it returns. Half of the time that many tests took went into that. Here beartype checks
each once, inside a context of jaxtyping's for the letters, and where the annotations name no array alone.
"""

import inspect
from collections.abc import Callable
from functools import update_wrapper, wraps
from types import CodeType, FunctionType
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

_with_shapes = jaxtyping.jaxtyped
_LETTERS = jaxtyping.jaxtyped("context")
_of_inner: dict[CodeType, Any] = {}
_typed: Any = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def check_shapes_where_they_are() -> None:
    """From now on, of what is imported."""
    jaxtyping.jaxtyped = _checked  # the hook looks it up in every module that it reads


def _checked(*, typechecker: Callable) -> Callable:
    def check(made: Any) -> Any:
        if inspect.isclass(made):
            return _with_checked_fields(made)
        if not isinstance(made, FunctionType) or inspect.isgeneratorfunction(made):
            return _with_shapes(made, typechecker=typechecker)
        return _with_checked_letters(made)

    return check


def _with_checked_fields(made: type) -> type:
    """A dataclass whose own `__init__` is checked; any other class as it is, since its methods are checked on their own."""
    if "__dataclass_fields__" in vars(made) and "__init__" in vars(made):
        made.__init__ = _with_checked_letters(made.__init__)
    return made


def _with_checked_letters(made: Any) -> Callable:
    typed = _typed_once(made)
    if not any(map(_names_an_array, made.__annotations__.values())):
        return typed

    @wraps(made)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            with _LETTERS:
                return typed(*args, **kwargs)
        except jaxtyping.TypeCheckError as error:
            if not hasattr(error, "__notes__"):
                error.add_note(_called(made, args, kwargs))
            raise

    return checked


def _typed_once(made: Any) -> Callable:
    """beartype's wrapper: of a function inside another, which every call of that makes anew, the first one's around this one."""
    if "<locals>" not in made.__qualname__:
        return _typed(made)
    if made.__code__ not in _of_inner:
        _of_inner[made.__code__] = _typed(made)
    first = _of_inner[made.__code__]
    if first.__code__ is made.__code__:  # it has no annotations
        return made
    again = FunctionType(first.__code__, first.__globals__, made.__name__)
    assert "__beartype_func" in first.__kwdefaults__
    again.__kwdefaults__ = {**first.__kwdefaults__, "__beartype_func": made}
    return update_wrapper(again, made)


def _called(made: Callable, args: tuple, kwargs: dict[str, Any]) -> str:
    """Which of its arguments have which shapes: of two that do not go together, beartype names the second."""
    given = inspect.signature(made).bind(*args, **kwargs).arguments
    shapes = {name: list(value.shape) for name, value in given.items() if hasattr(value, "shape")}
    return f"{made.__module__}.{made.__qualname__} was given arrays of these shapes: {shapes}"


def _names_an_array(annotation: Any) -> bool:
    """Whether some part of it is an array with a shape; a string, which is not known yet, may be one."""
    if isinstance(annotation, str):
        return True
    if isinstance(annotation, list | tuple):  # the arguments of a Callable
        return any(map(_names_an_array, annotation))
    is_array = isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)
    return is_array or any(map(_names_an_array, get_args(annotation)))
