"""How are documents written so that a kill loses little, and the same command ends in the same documents?

A folder of the cache, named by what decides them: weights and tokenizer of the target, prompts, sampling, seed. While they are
written it has `parts`, JSON lines of a batch each, whole or not at all; then `rollouts.jsonl`, in the order of the prompts, and
`about.json`. A document's chance is its own, so another batch size, or a kill anywhere, changes no document but by the rounding
of a sum. What is there is never written again.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from knowfuse.files import undamaged, write_whole
from knowfuse.locks import lock_file
from knowfuse.progress import counting
from knowfuse.rollouts.going_on import GoOn, Item
from knowfuse.rollouts.prompts import Prompt
from knowfuse.rollouts.sampling import Sampling
from knowfuse.rollouts.written import Line, line_of
from knowfuse.screen import say
from knowfuse.surface import Surface
from knowfuse.unwritable import make_folder

FORMAT_VERSION = 1
ROLLOUTS = "rollouts"  # in the cache
DOCUMENTS, ABOUT, PARTS = "rollouts.jsonl", "about.json", "parts"
GoOnBy = Callable[[], AbstractContextManager[GoOn]]  # an LLM that is at hand in a `with` block


@dataclass(frozen=True)
class Rollouts:
    """Documents that a target wrote, in a folder."""

    folder: Path
    about: dict[str, Any]

    @property
    def documents(self) -> int:
        return self.about["documents"]


def write_rollouts(
    go_on_by: GoOnBy,
    fingerprint: str,
    surface: Surface,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    batch_documents: int,
    cache: Path,
    origin: Mapping[str, Any],
) -> Rollouts:
    """The documents of these prompts; only those are written that are not there. Another process that writes them is waited for.

    `go_on_by` is asked for at most `batch_documents` at a time; `fingerprint` is of the LLM behind it, and `origin` is kept beside
    them.
    ValueError where nothing of all that is written can be kept.
    """
    if batch_documents < 1:
        raise ValueError(f"batch_documents is {batch_documents}: it must be at least 1")
    said = [[prompt.input_ids, asdict(prompt)["messages"]] for prompt in prompts]
    state = json.dumps([FORMAT_VERSION, fingerprint, surface.fingerprint, asdict(sampling), said])
    folder = cache / ROLLOUTS / hashlib.sha256(state.encode()).hexdigest()[:24]
    if not (folder / ABOUT).exists():
        with lock_file(folder.with_suffix(".lock")):
            if not (folder / ABOUT).exists():
                _write(folder, go_on_by, surface, prompts, sampling, batch_documents, origin)
    with undamaged(folder / ABOUT):
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in about["left_out"].items())
    say(
        f"rollouts: {about['documents']:,} documents of {len(prompts):,} prompts in {folder}; {about['other_tokens']:,} the target cuts "
        f"otherwise than it said them{f'; left out: {left_out}' if left_out else ''}"
    )
    if not about["documents"]:
        raise ValueError(
            f"of {len(prompts) * sampling.n} documents that the target wrote none can be kept ({left_out}): give it other prompts, more "
            "new_tokens, or more training"
        )
    return Rollouts(folder, about)


def _write(
    folder: Path,
    go_on_by: GoOnBy,
    surface: Surface,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    batch_documents: int,
    origin: Mapping[str, Any],
) -> None:
    in_order = sorted(prompts, key=lambda prompt: len(prompt.input_ids))  # stable: those of one length as they came
    items = [(prompt, number) for prompt in in_order for number in range(sampling.n)]
    lines = dict(_parts(folder))
    if missing := [place for place in range(len(items)) if place not in lines]:
        with go_on_by() as go_on, counting("rollouts", len(missing), "documents") as advance:
            for batch in _batches(missing, items, batch_documents):
                some = [items[place] for place in batch]
                its = [line_of(surface, prompt, ids) for (prompt, _), ids in zip(some, go_on(some), strict=True)]
                _write_part(folder, batch, its)
                lines |= zip(batch, its, strict=True)
                advance(len(batch))
    kept = [lines[place] for place in range(len(items)) if "left_out" not in lines[place]]
    about = {
        "documents": len(kept),
        "other_tokens": sum(line["other_tokens"] for line in kept),
        "left_out": Counter(line["left_out"] for line in lines.values() if "left_out" in line),
        "sampling": asdict(sampling),
        **origin,
    }
    whole = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
    write_whole(folder / DOCUMENTS, whole.encode())
    write_whole(folder / ABOUT, json.dumps(about, indent=1).encode())
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _batches(places: Sequence[int], items: Sequence[Item], most: int) -> Iterator[list[int]]:
    """At most so many at a time, whose prompts have one length."""
    for _, alike in groupby(places, key=lambda place: len(items[place][0].input_ids)):
        while batch := list(islice(alike, most)):
            yield batch


def _write_part(folder: Path, batch: Sequence[int], lines: Sequence[Line]) -> None:
    make_folder(folder / PARTS)
    told = "".join(json.dumps([place, line]) + "\n" for place, line in zip(batch, lines, strict=True))
    write_whole(folder / PARTS / f"{batch[0]:09d}.jsonl", told.encode())


def _parts(folder: Path) -> Iterator[tuple[int, Line]]:
    """What is there already, by its place."""
    for path in sorted((folder / PARTS).glob("*.jsonl")):
        with undamaged(path):
            for line in path.read_text(encoding="utf-8").splitlines():
                place, its = json.loads(line)
                yield place, its
