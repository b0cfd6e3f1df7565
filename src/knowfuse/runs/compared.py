"""How do the targets of several runs, and other LLMs beside them, compare on the same text?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from knowfuse.evaluation import ByDocument, Compared, by_document, cached_scores, compare
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.runs.judged import Judged, is_ours, judged
from knowfuse.runs.told_apart import labels, unnamed
from knowfuse.runs.your_own import source_name
from knowfuse.screen import say
from knowfuse.text.document import Document
from knowfuse.text.documents import Documents
from knowfuse.types import LLMSpec


@dataclass
class Comparison:
    """Every LLM by its name, and the one that they are compared with."""

    unit: str
    baseline: str
    rows: dict[str, Compared]
    documents: int
    left_out: int  # that some of them cannot read
    unnamed: list[str] = field(default_factory=list)  # settings in which runs differ, and that no name of a row says
    alone: list[str] = field(default_factory=list)  # domains of one document, which an interval knows nothing of


def compared(
    places: Sequence[str], texts_of: Callable[[Judged], tuple[Sequence[Document], Path]], baseline: str | None = None
) -> Comparison:
    """One table of runs, evaluations and other LLMs; runs that differ in the seed alone are one row, with its seeds.

    `texts_of` finds the documents of a run again, and its cache, where another LLM is to read them. `baseline` is the row that all are
    compared with; None: plain CLM, or the first row where there is none.
    ValueError where they are over different texts, where a name is given twice or is none, and for what `judged` refuses.
    """
    places = [str(place).rstrip("/") for place in places]  # of a list in YAML, where 1 is a number
    llms = [place for place in places if not is_ours(place) and _is_llm(place)]
    runs = [judged(place) for place in places if place not in llms]
    if not runs:
        raise ValueError(
            "compare= has no run, whose texts the others are compared on: add one, outputs/<name>/<date_time>"
        )
    require_same_texts(runs)
    nats = _rows(runs)
    if llms:
        if both := sorted(nats.keys() & set(llms)):
            raise ValueError(
                f"compare= has LLM {both[0]!r}, and the runs have a row of that name: give its folder as {'./' + both[0]!r}, or its whole path"
            )
        nats |= _llm_rows(llms, runs[0], *texts_of(runs[0]))
    if baseline is None:
        baseline = next((name for name in nats if name.startswith("target clm")), next(iter(nats)))
    if baseline not in nats:
        raise ValueError(f"baseline is {baseline!r}: choose one of {list(nats)}")
    return comparison_of(runs[0].unit, nats, runs[0].scores, baseline, unnamed([run.kind for run in runs]))


def comparison_of(
    unit: str,
    nats: Mapping[str, Float64[np.ndarray, "_ D"]],
    documents: ByDocument,
    baseline: str,
    unnamed: Sequence[str] = (),
) -> Comparison:
    """The table of `against`, and what is to be said of the documents that it is over."""
    rows, shared = against(nats, documents, baseline)
    alone = documents.take(shared).alone
    return Comparison(unit, baseline, rows, len(shared), len(documents.ids) - len(shared), list(unnamed), alone)


def against(
    nats: Mapping[str, Float64[np.ndarray, "_ D"]], documents: ByDocument, baseline: str
) -> tuple[dict[str, Compared], Int64[np.ndarray, " N"]]:
    """Every row of nats, one line a seed, against the baseline over the documents that all can read, and which those are.

    ValueError where there is none.
    """
    shared = np.flatnonzero(np.isfinite(np.concatenate(list(nats.values()))).all(0))
    if not len(shared):
        raise ValueError(f"no document can be read by all of {', '.join(nats)}: leave out the LLM that cannot")
    domains = [documents.domains[row] for row in shared]
    paid = {name: its[:, shared] for name, its in nats.items()}
    return compare(paid, documents.num_bytes[shared], domains, baseline), shared


def _is_llm(place: str) -> bool:
    """A folder that transformers may load, or what may be a hub id: no folder at all."""
    folder = Path(place)
    if folder.exists() or folder.parent.is_dir():  # a hub id is in no folder of this machine
        return (folder / "config.json").exists()
    return place.count("/") == 1 and ":" not in place


def require_same_texts(runs: Sequence[Judged]) -> None:
    """ValueError that names two of these that are over different documents, or other bytes of them."""
    first = runs[0].scores
    for other in runs[1:]:
        its, both = other.scores, f"{str(runs[0].folder)!r} and {str(other.folder)!r} are over different texts"
        if its.ids != first.ids or its.domains != first.domains:
            shared = len(set(its.ids) & set(first.ids))
            raise ValueError(
                f"{both} ({len(first.ids)} and {len(its.ids)} documents, {shared} of both), so their figures do not compare: train or "
                "evaluate them with the same data, corpus settings and split"
            )
        if not np.array_equal(its.num_bytes, first.num_bytes):
            raise ValueError(
                f"{both} (the same documents, of which {first.num_bytes.sum():,} and {its.num_bytes.sum():,} bytes count), so their "
                "figures do not compare: train or evaluate them with the same data and corpus settings, such as corpus.learn"
            )


def _rows(runs: Sequence[Judged]) -> dict[str, Float64[np.ndarray, "seeds D"]]:
    """The nats of every LLM of every kind of run, one row for each seed."""
    kinds: list[list[Judged]] = []
    for run in runs:
        alike = next((kind for kind in kinds if kind[0].kind == run.kind), None)
        if alike is None:
            kinds.append([run])
        elif run.seed in {other.seed for other in alike}:
            twice = next(other for other in alike if other.seed == run.seed)
            raise ValueError(
                f"{str(twice.folder)!r} and {str(run.folder)!r} are the same run, seed {run.seed}: give one"
            )
        else:
            alike.append(run)
    several = {tuple(sorted(run.seed for run in kind)) for kind in kinds if len(kind) > 1}
    if len(several) > 1:
        raise ValueError(
            f"seeds are compared in pairs, and these runs have seeds {sorted(several)}: give runs of the same seeds"
        )
    if len(seeds := sorted({run.seed for run in runs})) > 1 and not several:
        say(
            f"these runs have seeds {seeds}: what tells them apart may be the seed, of which the intervals know nothing"
        )
    for kind in kinds:
        if several and len(kind) == 1:
            say(
                f"{kind[0].folder} is of seed {kind[0].seed} alone, others are of {sorted(*several)}: of what another seed would give "
                "there its intervals know nothing; compare runs of the same seeds"
            )
    found: dict[str, dict[str, Float64[np.ndarray, "seeds D"]]] = {}  # by name, then by what tells its run apart
    for kind, label in zip(kinds, labels([kind[0].kind for kind in kinds]), strict=True):
        by_seed = sorted(kind, key=lambda run: run.seed)
        for name in by_seed[0].scores.nats:
            paid = np.stack([run.scores.nats[name] for run in by_seed])
            is_one = np.array_equal(paid, np.broadcast_to(paid[:1], paid.shape), equal_nan=True)
            paid = paid[:1] if is_one else paid  # a source says the same whatever the seed
            before = found.setdefault(name, {})
            same = next((one for one, other in before.items() if np.array_equal(paid, other, equal_nan=True)), None)
            if same is None:
                before[label] = paid
            elif name == "target fused":
                say(
                    f"{name} of {label or by_seed[0].folder} has the very figures of {same or kinds[0][0].folder}, and is no row of its own"
                )
    return {
        name if len(by_label) == 1 or not label else f"{name}, {label}": paid
        for name, by_label in found.items()
        for label, paid in by_label.items()
    }


def _llm_rows(
    places: Sequence[str], run: Judged, documents: Sequence[Document], cache: Path
) -> dict[str, Float64[np.ndarray, "1 D"]]:
    require_texts_of(run, documents)
    rows = {}
    for place in places:
        llm = localize(source_name(place), LLMSpec(path=place), cache)  # its scores are kept by its name
        say(f"{place}: reads {len(documents):,} documents, unless it has before")
        rows[place] = nats_of(llm, documents, cache)
    return rows


def require_texts_of(run: Judged, documents: Sequence[Document]) -> None:
    """ValueError where these are no longer the documents that the run was measured on."""
    if Documents.of(documents).names != run.scores.ids:
        raise ValueError(
            f"the texts of {str(run.folder)!r} are not what its settings give now, so no other LLM can be asked about them: "
            "their files have changed, give one that was measured since"
        )


def nats_of(llm: LocalLLM, documents: Sequence[Document], cache: Path) -> Float64[np.ndarray, "1 D"]:
    """What an LLM pays on each of these documents, read once and found again in the cache."""
    scores = cached_scores(llm, llm.surface(Documents.of(documents).is_chat), documents, cache)
    return by_document({llm.name: scores.nats}, documents).nats[llm.name][None]
