"""What would plain CLM reach on the whole text, and what do its sources know? Short fits ask, before anyone reads or trains for days."""

import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import lightning as L
import numpy as np
from jaxtyping import Float64

from knowfuse.evaluation import DocumentScores, by_document, oracle
from knowfuse.evaluation.learning_curve import LEAST_PARTS, Estimate, extrapolated
from knowfuse.evaluation.payoff import Payoff, payoff
from knowfuse.ranks import of_first_rank
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.prepared import Prepared
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.text.corpus import Corpus
from knowfuse.text.documents import Documents
from knowfuse.training.fit import tried

LEAST_STEPS = 16  # of the shortest fit
LEAST_DOCUMENTS = 8  # that it learns from
VALIDATIONS = 3  # of each fit
NOISE = 0.005  # bits per byte by which the figure of a fit differs with another seed
ORACLE, BEFORE = "the oracle", "the target"  # no names of sources, which have no spaces
SLOWER = 2.2  # times as long as the last fit the next one takes, on twice the text


@dataclass
class Part:
    """A fit of plain CLM on a part of the fusion text, with as many passes over it as the run makes over all."""

    share: float
    num_bytes: int  # of its documents
    steps: int
    passes: float
    learning_rate: float
    bits_per_byte: float  # the best on validation
    seconds: float


@dataclass
class Probed:
    """What a probe found; all in bits per byte of the same validation documents, of all domains together."""

    documents: int
    sources: dict[str, float]
    oracle: Estimate  # over the sources; its error is that of so few documents, for what lies between it and CLM
    before: float  # the target
    parts: list[Part]
    num_bytes: int  # of the whole fusion text
    clm: Estimate  # what plain CLM will reach on it
    payoff: Payoff
    seconds: float


def probe(experiment: Experiment, num_documents: int, minutes: float) -> Probed:
    """Fit plain CLM to ever larger parts of the fusion text, as far as the minutes go, and look where its curve leads.

    The first part is the smallest half of a half ... that gives a fit of `LEAST_STEPS` steps, the largest is a half.
    `num_documents` of the validation side, evenly spread, judge all; no source reads more. The minutes are those of reading and
    fitting: LLMs that have to be made or downloaded come on top. ValueError for too little text, and where the minutes end
    before there are as many fits as a curve needs.
    """
    whole = experiment.text()
    shares = shares_of(whole, _setting(experiment, "max_steps"))
    validation = _evenly(whole.split("validation"), num_documents)
    # Without fusion text, so that no source reads any.
    prepared = experiment.prepare(Corpus.of(whole.name, [*whole.split("sources"), *validation]))
    began = time.monotonic()
    scores, before = prepared.source_scores(validation), prepared.target_scores(validation)
    validation = _readable(experiment, prepared, validation, [*scores.values(), before])
    parts: list[Part] = []
    rates = experiment.clm_learning_rates or experiment.learning_rates
    for share in shares:
        if parts and of_first_rank(SLOWER * parts[-1].seconds > minutes * 60.0 - (time.monotonic() - began)):
            break
        fits = [_fit(experiment, prepared, whole, validation, share, rate) for rate in rates]
        parts.append(min(fits, key=lambda part: part.bits_per_byte))
        rates = [parts[-1].learning_rate]
    _require_time(parts, minutes)
    return _probed(scores, before, validation, parts, whole, time.monotonic() - began)


def shares_of(corpus: Corpus, max_steps: int) -> list[float]:
    """The parts of the fusion text to fit, from small to a half, each twice the one before; ValueError for too little text."""
    documents = len(corpus.split("fusion"))
    halvings = min(math.log2(max_steps / LEAST_STEPS), math.log2(max(documents, 1) / LEAST_DOCUMENTS))
    if halvings < LEAST_PARTS:
        part = 2**LEAST_PARTS
        raise ValueError(
            f"too little to probe: corpus {corpus.name!r} has {documents} documents on its fusion side and trainer.max_steps is "
            f"{max_steps}; down to an eighth of them, at least {LEAST_DOCUMENTS * part} documents and {LEAST_STEPS * part} steps are "
            "needed. So short a run is its own probe: train.py makes it with plain CLM beside it"
        )
    return [2.0**-n for n in range(math.floor(halvings), 0, -1)]


def _require_time(parts: Sequence[Part], minutes: float) -> None:
    if len(parts) < LEAST_PARTS:
        done = ", ".join(f"{part.share:.3g} of the text in {part.seconds:.0f} s" for part in parts)
        raise ValueError(
            f"{minutes:g} minutes were enough for {len(parts)} of the {LEAST_PARTS} fits that a curve needs ({done}): set minutes "
            "higher, or documents lower, all of which the sources and each validation read"
        )


def _setting(experiment: Experiment, name: str) -> int:
    """Of the Trainer."""
    return experiment.trainer.keywords.get(name, 1) if isinstance(experiment.trainer, partial) else 1


def _evenly(documents: Documents, most: int) -> Documents:
    """At most so many, evenly spread over the side, whose domains lie one after another."""
    places = np.linspace(0, len(documents) - 1, min(most, len(documents))).round().astype(np.int64)
    return documents.take(places)


def _readable(
    experiment: Experiment, prepared: Prepared, documents: Documents, scores: Sequence[DocumentScores]
) -> Documents:
    """Those that every LLM can read, and that fit in a block of the target's; ValueError where there are not two."""
    longest = min(experiment.block_tokens, prepared.target.context_length())
    fitting = documents.take(tokenize_documents(prepared.target_surface, documents, longest).places)
    read = set.intersection(*(set(s.nats) for s in scores))
    kept = fitting.take(np.array([name in read for name in fitting.names], dtype=bool))
    if len(kept) < 2:
        raise ValueError(
            f"{len(kept)} of the {len(documents)} documents of the probe's validation can be read by all sources and fit in "
            f"block_tokens={experiment.block_tokens} tokens of the target, and at least 2 are needed to say how far what they say is from what "
            "others would: set documents higher, or corpus.max_document_bytes lower"
        )
    return kept


def _fit(
    experiment: Experiment,
    prepared: Prepared,
    whole: Corpus,
    validation: Documents,
    share: float,
    learning_rate: float,
) -> Part:
    """Plain CLM on a part of the fusion text: the run in small."""
    learnt = whole.with_share(share * whole.fusion_share).split("fusion")
    steps, accumulated = (
        round(share * _setting(experiment, "max_steps")),
        _setting(experiment, "accumulate_grad_batches"),
    )
    counts = {"max_steps": steps, "val_check_interval": max(1, steps // VALIDATIONS) * accumulated}
    warmup = math.ceil(share * experiment.warmup_steps)
    small = replace(experiment, trainer=partial(experiment.trainer, **counts), warmup_steps=warmup)
    name = f"clm on {share:.3g}, lr {learning_rate:g}"
    part = replace(prepared, corpus=Corpus.of(name, [*learnt, *validation]))
    L.seed_everything(experiment.seed, workers=True, verbose=False)
    began = time.monotonic()
    module, data = small.module(part, "clm", learning_rate), small.data(part, "clm")
    own = deepcopy(small.trainer)  # a strategy serves one Trainer
    best = min(bits for _, bits in tried(name, module, data, own))
    num_bytes, passes = int(learnt.num_bytes.sum()), module.tokens_seen / data.train_blocks.num_tokens
    return Part(share, num_bytes, steps, passes, learning_rate, best, time.monotonic() - began)


def _probed(
    scores: Mapping[str, DocumentScores],
    before: DocumentScores,
    validation: Documents,
    parts: list[Part],
    whole: Corpus,
    seconds: float,
) -> Probed:
    sources = {name: its.nats for name, its in scores.items()}
    paid = by_document({**sources, ORACLE: oracle(dict(scores)).nats, BEFORE: before.nats}, validation)
    to_learn = (paid.nats[BEFORE] - paid.nats[ORACLE]) / math.log(2)
    known = Estimate(paid.over_all_bytes(ORACLE), ratio_error(to_learn, paid.num_bytes.astype(np.float64)))
    untrained, num_bytes = paid.over_all_bytes(BEFORE), int(whole.split("fusion").num_bytes.sum())
    clm = extrapolated(untrained, {part.num_bytes: part.bits_per_byte for part in parts}, num_bytes, NOISE)
    of_sources = {name: paid.over_all_bytes(name) for name in scores}
    pays = payoff(clm, known, parts[-1].passes)
    return Probed(len(paid.ids), of_sources, known, untrained, parts, num_bytes, clm, pays, seconds)


def ratio_error(amounts: Float64[np.ndarray, " D"], sizes: Float64[np.ndarray, " D"]) -> float:
    """The standard error of `sum(amounts) / sum(sizes)` over documents drawn by chance, at least two.

    Source: Cochran, Sampling Techniques, 1977, section 6.3 (the ratio of two sums).
    """
    count = len(sizes)
    left = amounts - sizes * amounts.sum() / sizes.sum()
    return math.sqrt(float((left**2).sum()) * count / (count - 1)) / float(sizes.sum())
