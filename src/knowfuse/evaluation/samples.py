"""Which documents show what a training did, and what is kept of them beside the figures of a run?

Those that gained and lost most by fusing, with what each of their tokens costs; and beginnings, with how the target goes on.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from knowfuse.evaluation.by_document import ByDocument
from knowfuse.files import undamaged, write_whole

SAMPLES = "samples.json"  # in the folder of a run
POINT, BASELINES = "target fused", ("target clm", "target before")
LEAST_BYTES = 64  # of a document that may be shown: of shorter ones a single token decides
SHOWN_TOKENS = 400  # of one document


@dataclass
class TokenCosts:
    """A document in the target's tokens, and the nats that each of them costs the target, by the name of its row."""

    id: str
    domain: str
    pieces: list[str]  # as a reader sees them
    num_bytes: list[int]  # of each
    nats: dict[str, list[float]]
    tokens: int  # of the whole document, of which the first are here


@dataclass
class Continuation:
    """The beginning of a document, how it goes on, and how the target goes on, by the name of its row."""

    id: str
    domain: str
    beginning: str
    true: str
    went_on: dict[str, str]


@dataclass
class Samples:
    """What is kept of single documents; `baseline` is the row that gains and losses are against."""

    baseline: str
    gained: list[TokenCosts] = field(default_factory=list)
    lost: list[TokenCosts] = field(default_factory=list)
    continuations: list[Continuation] = field(default_factory=list)


def baseline_of(scores: ByDocument) -> str:
    """What the fused target is compared with: plain CLM, or the target before where there is none."""
    return next(name for name in BASELINES if name in scores.nats)


def extremes(scores: ByDocument, number: int) -> tuple[list[str], list[str]]:
    """Ids of the documents whose bits per byte fell most by fusing, and of those whose rose most; at most so many of each.

    Documents that an LLM cannot read, and very short ones where there are others, are passed over.
    """
    shared = scores.shared()
    more = (shared.nats[POINT] - shared.nats[baseline_of(shared)]) / shared.num_bytes
    is_long = shared.num_bytes >= min(LEAST_BYTES, int(shared.num_bytes.max()))
    order = [row for row in np.argsort(more, kind="stable").tolist() if is_long[row]]
    gained = [row for row in order[:number] if more[row] < 0]
    lost = [row for row in order[::-1][:number] if more[row] > 0]
    return [shared.ids[row] for row in gained], [shared.ids[row] for row in lost]


def begun(domains: Sequence[str], number: int) -> list[int]:
    """So many places, a domain after another, each the first of its domain that is left."""
    left: dict[str, list[int]] = {}
    for place, domain in enumerate(domains):
        left.setdefault(domain, []).append(place)
    chosen: list[int] = []
    while len(chosen) < number and any(left.values()):
        chosen += [places.pop(0) for _, places in sorted(left.items()) if places]
    return chosen[:number]


def write_samples(folder: Path, samples: Samples) -> None:
    """Keep them in the folder of a run."""
    write_whole(folder / SAMPLES, json.dumps(asdict(samples)).encode())


def read_samples(folder: Path) -> Samples:
    """The inverse; FileNotFoundError where there are none, ValueError where the file is damaged."""
    path = folder / SAMPLES
    with undamaged(path, "remove it; python -m knowfuse.report with --samples makes it anew"):
        kept = json.loads(path.read_text(encoding="utf-8"))
        costs = {side: [TokenCosts(**each) for each in kept[side]] for side in ("gained", "lost")}
        return Samples(kept["baseline"], **costs, continuations=[Continuation(**c) for c in kept["continuations"]])
