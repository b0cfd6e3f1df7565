"""How far is each stage, how fast, and how long will it take?"""

import logging
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from threading import Event, Thread
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from knowfuse.types import IGNORE

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
PULSE_SECONDS = 30.0


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


class _Speed(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        seconds, tokens = task.elapsed or 0.0, task.fields.get("tokens", 0)
        unit = task.fields.get("unit", "tokens")
        return Text(f"{tokens / seconds:,.0f} {unit}/s" if seconds and tokens else "", style="progress.data.speed")


def _bar(stays: bool = True) -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TaskProgressColumn(),
        _Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=not stays,
        disable=not (stays or console.is_terminal),  # rich would leave an empty line in a log
    )


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


class Pulse:
    """Says that a stage lives where no bar does, outside a terminal: a line every `PULSE_SECONDS`, with rate and time left."""

    def __init__(self, stage: str, total: int, begun: int = 0) -> None:
        self.stage, self.total, self.begun = stage, total, begun
        self.start = self.last = time.monotonic()

    def beat(self, done: int, counted: int, unit: str) -> None:
        """`done` of the total, in which `counted` of the unit passed since the stage began."""
        now = time.monotonic()
        if console.is_terminal or now - self.last < PULSE_SECONDS or done <= self.begun:
            return
        self.last, spent = now, now - self.start
        left = spent * (self.total - done) / (done - self.begun)
        rate = f"{counted / spent:,.0f} {unit}/s" if spent else f"{counted:,} {unit}"
        say(f"{self.stage}: {done:,} of {self.total:,} ({done / self.total:.0%}), {rate}, {clock(left)} left")


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


@contextmanager
def at_work(stage: str) -> Iterator[None]:
    """Says every `PULSE_SECONDS` that a stage lives of which nobody can tell how long it will take."""
    ended, began = Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(PULSE_SECONDS):
            say(f"{stage}: at work for {clock(time.monotonic() - began)}")

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


@contextmanager
def counting(stage: str, total: int, unit: str = "tokens", stays: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar over tokens; call the yielded function with the number just done.

    Not `stays`: it is there while the work lasts, and what comes of it is said elsewhere.
    """
    pulse = Pulse(stage, total)
    with _bar(stays) as bar:
        task = bar.add_task(stage, total=total, tokens=0, unit=unit, note="")
        done = 0

        def advance(tokens: int) -> None:
            nonlocal done
            done += tokens
            bar.update(task, completed=done, tokens=done)
            pulse.beat(done, done, unit)

        yield advance
        if not done:  # else it would look stuck
            bar.update(task, completed=total, note="found, nothing to do")


class ReadProgress(L.Callback):
    """The same bar, while it lasts, over the labels that a trained LLM reads; the ranks have about as many each."""

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.total = stage, total
        self.shown = ExitStack()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.advance = self.shown.enter_context(counting(self.stage, self.total, stays=False))

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        _, labels = batch
        self.advance(int((labels != IGNORE).sum()) * trainer.world_size)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.shown.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.shown.close()


class FitProgress(L.Callback):
    """The same bar over the steps of a fit, with the last validation figure beside it; until its first batch is done it is at work."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.beginning = ExitStack()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.beginning.enter_context(at_work(f"{self.stage}: its first batch"))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.tokens, self.bar = 0, _bar()
        self.pulse = Pulse(self.stage, trainer.max_steps, trainer.global_step)
        if trainer.is_global_zero:
            self.bar.start()
        self.task = self.bar.add_task(self.stage, total=trainer.max_steps, tokens=0, note="")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.beginning.close()
        self.tokens += int((batch.labels != IGNORE).sum()) * trainer.world_size
        self.bar.update(self.task, completed=trainer.global_step, tokens=self.tokens)
        self.pulse.beat(trainer.global_step, self.tokens, "tokens")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if "val/bits_per_byte" in trainer.callback_metrics and hasattr(self, "bar"):
            bits = float(trainer.callback_metrics["val/bits_per_byte"])
            self.bar.update(self.task, note=f"val {bits:.3f} bits/byte")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.beginning.close()
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.beginning.close()
        if hasattr(self, "bar"):
            self.bar.stop()
