"""What does a fit leave that has ended?"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowfuse.files import restored, undamaged

DONE = "fit.json"  # in the folder of a fit that has ended


@dataclass
class Fit:
    """A finished fit: its best checkpoint by validation, and the way there."""

    name: str
    best_checkpoint: str  # relative to the fit's folder
    best_bits_per_byte: float
    learning_rate: float
    history: list[tuple[int, float]]  # (training tokens seen, validation bits per byte)
    sources: dict[str, Any] | None = None  # what `SourcesSaid` sums up; None of plain CLM, and of the fits of before

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Fit":
        """The inverse of `asdict` and JSON, which knows no tuples."""
        return cls(**{**values, "history": [(tokens, bits) for tokens, bits in values["history"]]})


def finished(folder: Path) -> Fit | None:
    """The fit of this folder, if it has ended; ValueError where what it left is damaged."""
    if not (done := folder / DONE).exists():
        return None
    with undamaged(done, "remove it and run train.py with ckpt_path=last, which makes it anew from last.ckpt"):
        return Fit.from_json(json.loads(done.read_text(encoding="utf-8")))


def best_checkpoint(folder: Path, fit: Fit) -> Path:
    """The file, or the folder of shards, that a fit kept in its folder; of one that was killed while it replaced it too.

    ValueError where it is gone, as from a run that was copied without its fits.
    """
    kept = restored(folder / fit.best_checkpoint)
    if not kept.exists():
        raise ValueError(
            f"{str(kept)!r} is not there, the checkpoint of the trained target that the run kept: copy the run with its fits, or "
            "train it again"
        )
    return kept
