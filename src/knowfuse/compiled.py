"""How is a function compiled, kept on disk, and never run with what another file said before it changed?

numba keeps what it compiled until the function's own file changes. What the function took in from other files, which are
compiled functions, constants and the order of a named tuple's fields, would stay as it was, without a word. Here all of
it is part of what the code is found by. And of several processes that want the same at once numba lets each compile, and
two that keep different code of one function at once may find one's under the other's name: here they take turns.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Literal

import numpy as np
from numba import njit
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.core.registry import CPUDispatcher

from knowfuse.locks import lock_file

OPTIONS: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True}  # nobody passes a compiled function on
OF_A_PART: dict[str, Any] = {**OPTIONS, "no_cpython_wrapper": True}
ZERO = np.int64(0)  # to begin with: numba compiles a second time all that is given a literal 0
CONSTANTS = (bool, int, float, complex, str, bytes, np.generic)


def compiled(function: Callable | None = None, *, inline: Literal["never", "always"] = "never") -> Any:
    """The function in machine code, which holds no lock of Python's; kept where numba keeps its own (NUMBA_CACHE_DIR).

    Of several processes one compiles, the others wait and read what it kept. Where nothing can be written it is compiled anew by every process, with a warning.
    """
    if function is None:
        return lambda function: compiled(function, inline=inline)
    return _kept(njit(**OPTIONS, inline=inline)(function), function, _InTurn)


def compiled_part(function: Callable) -> Any:
    """The same of what only compiled functions call. TypeError where Python does.

    What Python would call it by is not compiled, which of a few lines that take in many arrays is most of the time.
    """
    return _kept(njit(**OF_A_PART)(function), function, _Part)


class _InTurn(CPUDispatcher):
    _cache: Any  # of numba's own, in which it says no types
    targetctx: Any

    def compile(self, sig: Any) -> Any:
        with global_compiler_lock, self._turn(sig):  # numba's first: a thread that has it may want the file's
            return super().compile(sig)

    def _turn(self, sig: Any) -> AbstractContextManager[object]:
        """Of this function's among all processes, where it is not compiled yet and can be kept."""
        if isinstance(self._cache, _Cache) and not self._cache.has(sig, self.targetctx.codegen()):
            with suppress(OSError):
                return lock_file(self._cache.lock)
        return nullcontext()


class _Part(_InTurn):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.py_func.__name__} is called by compiled functions alone: make it `compiled`")


def _kept(made: Any, function: Callable, kind: type[_InTurn]) -> Any:
    if made is not function:  # as it is where NUMBA_DISABLE_JIT is set
        made.__class__ = kind
        try:
            made._cache = _Cache(function)
        except RuntimeError as error:  # numba's, of a package and a home that are only to be read
            if "no locator available" not in str(error):
                raise
            warnings.warn(
                "compiled code cannot be kept, so every start compiles again: set NUMBA_CACHE_DIR to a folder that can be "
                "written",
                stacklevel=1,  # of this line, so that one warning stands for all
            )
    return made


class _Cache(FunctionCache):
    """numba's own, whose entries are found by all that the function takes in too, as it was when this process read it."""

    def _index_key(self, sig: Any, codegen: Any) -> tuple:
        found: dict[str, Any] = {"fields": [getattr(kind, "fields", None) for kind in sig]}
        _take_in(self._py_func, found)
        return (*super()._index_key(sig, codegen), hashlib.sha256(repr(found).encode()).hexdigest())

    def has(self, sig: Any, codegen: Any) -> bool:
        """Whether a process has compiled it for these types."""
        return self._index_key(sig, codegen) in self._cache_file._load_index()

    @property
    def lock(self) -> Path:
        return Path(self._cache_path) / f"{self._impl.filename_base}.lock"


def _take_in(function: FunctionType, found: dict[str, Any]) -> None:
    """Add what the function says, and the compiled functions and constants that it names, in whatever file they are."""
    name = f"{function.__module__}.{function.__qualname__}"
    if name in found:
        return
    names, found[name] = set(), _said(function.__code__)
    for code in _codes(function.__code__):
        names |= set(code.co_names)
    for used in sorted(names & set(function.__globals__)):
        value = function.__globals__[used]
        parts = {used: value}
        if isinstance(value, ModuleType):
            parts = {f"{used}.{part}": getattr(value, part) for part in sorted(names) if hasattr(value, part)}
        for part, value in parts.items():
            if isinstance(value, Dispatcher):
                _take_in(value.py_func, found)
            elif (constant := _constant(value)) is not None:
                found[f"{name}: {part}"] = constant


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _said(code: CodeType) -> list:
    return [
        (one.co_code, one.co_names, [constant for constant in one.co_consts if not isinstance(constant, CodeType)])
        for one in _codes(code)
    ]


def _constant(value: Any) -> Any:
    """What is compiled in of a global; None for what is none of a program's own constants."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, tuple):
        return [_constant(part) for part in value]
    if isinstance(value, type):
        return getattr(value, "_fields", None)  # of a named tuple
    return repr(value) if isinstance(value, CONSTANTS) else None
