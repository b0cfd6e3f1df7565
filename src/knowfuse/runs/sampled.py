"""What do the targets of a run say of single documents? Asked once they are trained, or later of a run that kept nothing."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from knowfuse.evaluation import (
    BATCH_TOKENS,
    Beginnings,
    ByDocument,
    Continuation,
    Samples,
    TokenCosts,
    Told,
    baseline_of,
    begun,
    extremes,
    tell,
    tell_trained,
)
from knowfuse.evaluation.samples import SHOWN_TOKENS
from knowfuse.evaluation.told import NEW_TOKENS
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.prepared import Prepared
from knowfuse.surface.shown import shown
from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.surface.turns import learnt_rows
from knowfuse.text.document import Document
from knowfuse.text.documents import Documents
from knowfuse.training.finished import Fit, best_checkpoint

BEGINNING = 24  # tokens, BOS among them
GOES_ON = 8  # tokens that a document must have beyond them


def sampled(
    experiment: Experiment,
    prepared: Prepared,
    fits: Mapping[str, Fit],
    run: Path,
    documents: Sequence[Document],
    scores: ByDocument,
) -> Samples | None:
    """What is kept of `experiment.samples` documents that gained most by fusing, that lost most, and that are begun; None of 0.

    `scores` are of these documents. All ranks of the Trainer ask together. ValueError where the documents are not those that
    were scored.
    """
    if not (number := experiment.samples):
        return None
    gained, lost = extremes(scores, number)
    places = {name: place for place, name in enumerate(Documents.of(documents).names)}
    if strange := [name for name in (*gained, *lost) if name not in places]:
        raise ValueError(
            f"document {strange[0]} of {str(run)!r} is not among what its settings give now, so nothing can be shown of it: its "
            "files have changed since"
        )
    tokens = _tokens(prepared, [documents[places[name]] for name in dict.fromkeys([*gained, *lost])])
    started, beginnings = _beginnings(prepared, documents, number)
    told: dict[str, Told] = {}
    with prepared.target.to_read(prepared.cache) as model:
        told["target before"] = tell(model, tokens, beginnings, BATCH_TOKENS)
    for method, kept in fits.items():
        told[f"target {method}"] = tell_trained(
            deepcopy(experiment.trainer),
            experiment.target_module(prepared),
            best_checkpoint(run / "fits" / kept.name, kept),
            tokens,
            beginnings,
            BATCH_TOKENS,
        )
    costs = {name: _costs(tokens, name, told) for name in tokens}
    return Samples(
        baseline_of(scores),
        [costs[name] for name in gained],
        [costs[name] for name in lost],
        [_continuation(prepared, started, name, told, beginnings) for name in beginnings.documents],
    )


def _tokens(prepared: Prepared, documents: Sequence[Document]) -> TokenizedDocuments:
    return tokenize_documents(prepared.target_surface, documents, prepared.target.context_length())


def _beginnings(
    prepared: Prepared, documents: Sequence[Document], number: int
) -> tuple[TokenizedDocuments, Beginnings]:
    """Of documents long enough to go on after as many tokens as each is begun with, of every domain where there are some.

    Looked for among the first of each domain: a corpus may have millions.
    """
    those = Documents.of(documents)
    domains = [those.table.domains[code] for code in those.table.domain_codes[those.rows]]
    long = BEGINNING + GOES_ON
    first = begun(domains, 32 * number)
    tokens = _tokens(prepared, [documents[place] for place in sorted(first)])
    names = those.names
    fit = [place for place in first if tokens.lengths.get(names[place], 0) >= long]
    chosen = [fit[n] for n in begun([domains[place] for place in fit], number)]
    ids = [tokens[names[place]].input_ids[:BEGINNING] for place in chosen]
    rows = torch.from_numpy(np.stack(ids)) if ids else torch.zeros(0, BEGINNING, dtype=torch.int64)
    room = prepared.target.context_length() - BEGINNING
    surface = prepared.target_surface
    return tokens, Beginnings(
        [names[place] for place in chosen], rows, surface.usable, surface.eos_id, min(NEW_TOKENS, room)
    )


def _costs(tokens: TokenizedDocuments, name: str, told: Mapping[str, Told]) -> TokenCosts:
    document, place = tokens[name], tokens.documents.names.index(name)
    of = tokens.documents[place]
    data, ends = of.text.encode(), document.ends
    learnt = np.flatnonzero(learnt_rows(document)[0]).tolist()
    rows = learnt[:SHOWN_TOKENS]
    return TokenCosts(
        name,
        of.domain,
        [shown(data[ends[t] : ends[t + 1]]) for t in rows],
        [int(ends[t + 1] - ends[t]) for t in rows],
        {llm: [round(its.nats[name][t], 4) for t in rows] for llm, its in told.items()},
        len(learnt),
    )


def _continuation(
    prepared: Prepared, tokens: TokenizedDocuments, name: str, told: Mapping[str, Told], beginnings: Beginnings
) -> Continuation:
    """The true text goes on for as many tokens as the target does."""
    document = tokens[name]
    of = tokens.documents[tokens.documents.names.index(name)]
    data, ends = of.text.encode(), document.ends
    at, end = ends[BEGINNING - 1], ends[min(BEGINNING - 1 + beginnings.new_tokens, len(ends) - 1)]
    spelled = prepared.target_surface.token_bytes
    return Continuation(
        name,
        of.domain,
        data[:at].decode(errors="replace"),
        data[at:end].decode(errors="replace"),
        {
            llm: b"".join(spelled[i] or b"" for i in its.went_on[name]).decode(errors="replace")
            for llm, its in told.items()
        },
    )
