"""What is shown on a screen, or in a log, and what becomes of a program whose output goes nowhere?"""

import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NoReturn

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

# What libraries say at every run of ours about their own insides.
NOISE = [
    "Checkpoint directory .* exists",
    "'set_vital' is deprecated",
    ".*isinstance\\(treespec, LeafSpec\\)",
    "Detected an existing checkpoint",
    "It is recommended to use `self.log",  # of figures that every rank has already
]


def is_first_rank() -> bool:
    """Whether this process is the one that speaks, scores and writes; Lightning reads it from the environment."""
    return rank_zero_only.rank == 0  # pyright: ignore[reportFunctionMemberAccess]


def quiet_libraries() -> None:
    """Leave the screen to our own lines and tables: no advertisement, no bar for each model loaded."""
    disable_progress_bar()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("accelerate.big_modeling").setLevel(
        logging.ERROR
    )  # that some weights are elsewhere: our own line says where
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says which kernels it did not find
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)


def open_closed_streams() -> None:
    """See to it that standard input, output and error are there, as `>&-` and some services start a program without them.

    Python has None for such a stream; and the next file that is opened would get its number, which what a library in C prints goes to.
    """
    if sys.stdin is not None and sys.stdout is not None and sys.stderr is not None:
        return
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # stays, in the place of a closed one
        pass
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for as long as the program runs


open_closed_streams()

LOG_WIDTH = 140  # characters of a line where there is no terminal that says how many it has
WIDE = 10_000  # characters, more than any table has


def screen_width() -> int | None:
    """None: as the terminal, or COLUMNS, says; a COLUMNS of 0, which some start programs with, says nothing, and rich would print nothing."""
    says = os.environ.get("COLUMNS")
    if says != "0" and (says is not None or sys.stdout.isatty()):
        return None
    return shutil.get_terminal_size((LOG_WIDTH, 0)).columns


UNREAD = 128 + signal.SIGPIPE  # the exit status that a shell shows of a program whose output nobody reads any more


def end_unwritten(error: OSError) -> NoReturn:
    """Ends the process since standard output takes no more: after `| head -1` as the system ends other programs, without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own end would find the same
    raise SystemExit(
        UNREAD if isinstance(error, BrokenPipeError) else f"standard output cannot be written: {error.strerror}"
    ) from error


class _Screen:
    """Standard output, which ends the process where it takes no more: Hydra, logging and rich each make something else of its error."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            end_unwritten(error)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            end_unwritten(error)


@contextmanager
def to_a_reader() -> Iterator[None]:
    """Ends the process by `end_unwritten` where what the block prints goes nowhere, whoever prints it."""
    screen: Any = _Screen(sys.stdout)
    with redirect_stdout(screen):
        try:
            yield
        finally:
            screen.flush()


console = Console(quiet=not is_first_rank(), width=screen_width())


def say(line: str) -> None:
    """A line of a stage: what it did, or why it had nothing to do."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)  # a path in it can be copied


def show_table(table: Table) -> None:
    """The table; on a screen that is too narrow for its figures each row is a line, in which none of them is cut off."""
    if console.measure(table, options=console.options.update(width=WIDE)).maximum <= console.width:
        console.print(table)
        return
    say(str(table.title))
    _, *heads = (_plain(column.header) for column in table.columns)
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        shown = (f"{head} {_plain(cell)}" for head, cell in zip(heads, cells, strict=True) if _plain(cell))
        say(f"{_plain(name)}: {', '.join(shown)}")
    if table.caption:
        say(str(table.caption))


def _plain(cell: RenderableType) -> str:
    """Without its markup."""
    return Text.from_markup(str(cell)).plain
