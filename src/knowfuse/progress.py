"""How far is each stage, how fast, and how long will it take?"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from knowfuse.screen import console, say

PULSE_SECONDS = 30.0


class _Speed(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        seconds, tokens = task.elapsed or 0.0, task.fields.get("tokens", 0)
        unit = task.fields.get("unit", "tokens")
        return Text(f"{tokens / seconds:,.0f} {unit}/s" if seconds and tokens else "", style="progress.data.speed")


def progress_bar(stays: bool = True) -> Progress:
    """Of one stage, with its rate, the time left and a note; not `stays`: it goes when it is done, and a log has none."""
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
    with progress_bar(stays) as bar:
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
