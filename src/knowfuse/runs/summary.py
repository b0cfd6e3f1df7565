"""What does a run say at its end? How long each of its stages took, and which settings it was asked for."""

import shlex
import time
from collections.abc import Sequence

from knowfuse.progress import clock


class Stages:
    """The stages of a run, one after another, from when this is made."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """All since the stage before belongs to this one."""
        now = time.monotonic()
        self.seconds[name], self.last = now - self.last, now

    def __str__(self) -> str:
        parts = [f"{name} {clock(seconds)}" for name, seconds in self.seconds.items()]
        return f"time: {', '.join(parts)}; {clock(sum(self.seconds.values()))} in all"


def asked_for(overrides: Sequence[str]) -> str:
    """The settings of a command, as they can be typed again."""
    return f"settings: {shlex.join(overrides)}, and the defaults" if overrides else "settings: the defaults"
