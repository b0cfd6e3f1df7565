"""How does a command start, and how does it refuse? One paragraph that says what to do, and nothing left on disk."""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import CompactHydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from knowfuse.commands.agent_words import in_hydras_words
from knowfuse.commands.by_signal import ending_as_told
from knowfuse.commands.chosen import shown_choices
from knowfuse.commands.data_worker import refusal_of_a_worker
from knowfuse.commands.interrupted import ending_at_ctrl_c
from knowfuse.commands.left_over import remove_unused_sweep
from knowfuse.commands.other_rank import end_with_the_first
from knowfuse.commands.readable import require_readable
from knowfuse.commands.words import answer, unknown_setting, unknown_target
from knowfuse.launched import require_joined
from knowfuse.runs.requeued import requeue_when_told
from knowfuse.runs.scaled import scaled
from knowfuse.screen import UNREAD, say, to_a_reader
from knowfuse.unwritable import no_place, why

PLACES = (
    "Caches are in the folder cache=, or KNOWFUSE_CACHE, runs in hydra.run.dir=, exports in folder=, temporary files in TMPDIR: set "
    "the one that this is of to a folder with room, which you may write to"
)
NO_CHARACTERS = "the name of a file or folder holds what are no characters in this locale: set PYTHONUTF8=1, or LC_ALL=C.UTF-8, or rename it"
OURS = ("knowfuse", "__main__", "train", "evaluate")  # modules whose ValueErrors are written for the user


class Refused(CompactHydraException, ValueError):
    """What a user can set right: Hydra prints it without the stack, which HYDRA_FULL_ERROR=1 adds."""


def command(
    config_name: str, conf: Path, run_dir: str | None = None
) -> Callable[[Callable[[DictConfig], Any]], Callable[..., Any]]:
    """`hydra.main` over `conf/<config_name>.yaml`, for a function that raises ValueError for what a user can set right.

    `--help` lists what can be chosen. A word that Hydra cannot read, and a setting that does not exist, are followed by the
    command that is meant. `run_dir` is where the command runs unless it says so: of one whose settings are those of train.py, and
    which would else make a run's folder whenever Hydra merges the two. Given a configuration, the function is called with it, as by `hydra.main`.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[..., Any]:
        @functools.wraps(task)
        def refusing(cfg: DictConfig) -> Any:
            try:
                require_cache(cfg)
                return task(scaled(cfg, conf))
            except Exception as error:
                if (told := refusal(error)) is None:
                    raise
                its_own = isinstance(error, OmegaConfBaseException)  # which Hydra would print a second time
                raise Refused(told) from (None if its_own else error)

        start = hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)(refusing)

        @functools.wraps(task)
        def started(cfg: DictConfig | None = None) -> Any:
            if cfg is not None:
                return task(cfg)
            if {"-h", "--help"} & set(sys.argv[1:]):
                with to_a_reader():
                    return say(shown_choices(conf, config_name))
            require_joined(os.environ)
            end_with_the_first(sys.argv, os.environ)
            typed = list(sys.argv)
            sys.argv[1:] = in_hydras_words(sys.argv[1:], os.environ)
            if run_dir is not None and not any(word.startswith("hydra.run.dir=") for word in sys.argv):
                sys.argv.append(f"hydra.run.dir={run_dir}")
            if "HYDRA_FULL_ERROR" not in os.environ:
                require_readable(sys.argv[1:], conf, config_name)
            requeue_when_told(os.environ)
            tell = ending_as_told(os.environ)
            try:
                with ending_at_ctrl_c(config_name, typed[1:]), to_a_reader():
                    return start()
            except SystemExit as end:
                tell(end.code)
                if end.code and end.code != UNREAD:
                    remove_unused_sweep()
                    print(answer(typed, conf, config_name, end.__context__), end="", file=sys.stderr)
                raise

        return started

    return decorate


@contextmanager
def told(places: str) -> Iterator[None]:
    """The same of a program that has no configuration: what a user can set right ends it in a sentence.

    `places` says what to do where nothing can be written.
    """
    try:
        with to_a_reader():
            yield
    except Exception as error:
        if "HYDRA_FULL_ERROR" in os.environ or (said := refusal(error, places)) is None:
            raise
        raise SystemExit(said) from error


def refusal(error: Exception, places: str = PLACES) -> str | None:
    """What to tell the user, where it is the user who can set it right; None for a fault of the program.

    `places` says what to do where nothing can be written.
    """
    if isinstance(
        error, InstantiationException
    ):  # what it was raised from says why, without the names of our functions
        cause = error.__cause__
        if isinstance(cause, TypeError) and (unknown := unknown_setting(str(error))) is not None:
            return unknown
        if (unknown := unknown_target(str(error), cause)) is not None:
            return unknown
        return refusal(cause) if isinstance(cause, Exception) else str(error)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return NO_CHARACTERS
    if isinstance(error, InterpolationKeyError) and (named := re.search(r"key '(.+)' not found", str(error))):
        return f"{error.full_key} refers to {named[1]}, and there is no such setting: set {error.full_key} as well"
    if isinstance(error, CompactHydraException | OmegaConfBaseException):
        return str(error).partition("\n")[0] if isinstance(error, OmegaConfBaseException) else str(error)
    if (told := refusal_of_a_worker(error)) is not None:
        return told
    says_where = isinstance(error, OSError) and error.errno is None  # one of ours
    if not says_where and (unwritable := no_place(error)) is not None:
        place = "a file cannot be written" if unwritable.filename is None else repr(str(unwritable.filename))
        return f"{place}: {why(unwritable).lower()}. {places}"
    is_of_the_user = isinstance(error, ValueError | OSError | ImportError) and _raised_in(error).startswith(OURS)
    return str(error) if is_of_the_user else None


def require_cache(cfg: DictConfig) -> None:
    """ValueError where the cache is a name of no letters, which would be whatever folder the command is run in, or a URL."""
    cache = cfg.get("cache")
    if cache == "":
        raise ValueError("cache is empty: unset KNOWFUSE_CACHE, or set it, or cache=, to a folder")
    if "://" in str(cache):
        raise ValueError(
            f"cache is {cache!r}: give a folder of this machine; tracing.place takes a URL, for what sources said alone"
        )


def _raised_in(error: Exception) -> str:
    """The module of the innermost frame."""
    trace, module = error.__traceback__, ""
    while trace is not None:
        module, trace = str(trace.tb_frame.f_globals.get("__name__")), trace.tb_next
    return module
