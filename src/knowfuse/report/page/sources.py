"""Who won where: which source the fused target is made of, what became of the sources' mass, and how far apart they are?"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from knowfuse.pages import (
    MASS_COLOURS,
    MASS_MEANING,
    Line,
    Part,
    Section,
    areas,
    bars,
    figure,
    grid,
    key,
    lines,
    paragraph,
    table,
)
from knowfuse.report.left import OLDER, Left
from knowfuse.report.page.rows import POINT, colours_of, sources_of
from knowfuse.report.page.training import TOKENS, points_of
from knowfuse.types import MASS_CLASSES, ROW_CLASSES

ROW_MEANING = dict(
    zip(ROW_CLASSES, ("is one source token", "spans several", "ends inside one", "begins inside one"), strict=True)
)
DISAGREEMENT = "train/disagreement_nats"


def _learnt_from(left: Left) -> Mapping[str, Any] | None:
    """What the fused fit kept of its sources; None for runs that kept nothing of them."""
    fused = left.fits.get("fused")
    return getattr(fused, "sources", None)


def _why_not(left: Left) -> str:
    return (
        "the fused fit is not finished"
        if "fused" not in left.fits
        else f"what the fused fit made of its sources: {OLDER}"
    )


def sources(left: Left) -> Section:
    """The sources' shares of the fused target, and which of them knows the documents of the results best."""
    found, names = _learnt_from(left), sources_of(left)
    colours = colours_of(left, names)
    parts = [key(colours)] if names else []
    if found is not None:
        parts += [
            paragraph("What part of the fused target each source made, over the rows of training that have a label:"),
            _shares(found, colours),
        ]
        parts += [_over_training(found, colours), _coverage(found, names)]
    if left.documents is not None and len(set(names) & left.documents.nats.keys()) > 1:
        parts.append(_knows_best(left, names, colours))
    return Section(
        "sources",
        "Who won where",
        "".join(parts) if len(parts) > 1 else "",
        "" if found is not None else _why_not(left),
    )


def _shares(found: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    domains = found["labelled"]
    whole = sum(domains.values())
    rows = {d: [Part(n, found["share"][n].get(d, 0.0), c) for n, c in colours.items()] for d in domains}
    if len(domains) > 1 and whole:
        means = {n: sum(found["share"][n].get(d, 0.0) * count for d, count in domains.items()) / whole for n in colours}
        rows["all"] = [Part(n, means[n], c) for n, c in colours.items()]
    return bars(rows)


def _over_training(found: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    """A chart for each domain; of its shares where something of it was read between two validations."""
    charts = []
    for domain in found["labelled"]:
        read = [entry for entry in found["over_training"] if entry["labelled"].get(domain)]
        if read:
            shares = {name: [entry["share"][name].get(domain, 0.0) for entry in read] for name in colours}
            charts.append(
                figure(
                    f"{domain}, over training",
                    areas(shares, colours, [float(entry["tokens"]) for entry in read], TOKENS),
                )
            )
    return grid(charts)


def _coverage(found: Mapping[str, Any], names: list[str]) -> str:
    domains = list(found["labelled"])
    rows = [[name, *(f"{found['coverage'][name].get(d, 0.0):.1%}" for d in domains)] for name in names]
    return "<h3>Share of rows on which each source is aligned</h3>" + table(["", *domains], rows)


def _knows_best(left: Left, names: list[str], colours: Mapping[str, str]) -> str:
    """Of the documents of the results, how many each source knows best, and on how many the fused target is ahead of all."""
    assert left.documents is not None
    shared = left.documents.shared()
    its = [name for name in names if name in shared.nats]
    paid = np.stack([shared.nats[name] for name in its])
    best, of = paid.argmin(0), np.array(shared.domains)
    rows, ahead = {}, []
    for domain in sorted(set(shared.domains)):
        inside = of == domain
        counts = np.bincount(best[inside], minlength=len(its)) / inside.sum()
        rows[domain] = [Part(name, float(share), colours[name]) for name, share in zip(its, counts, strict=True)]
        if POINT in shared.nats:
            ahead.append(f"{domain} {(shared.nats[POINT][inside] < paid.min(0)[inside]).mean():.0%}")
    said = f"The fused target pays less than every source on {', '.join(ahead)} of the documents." if ahead else ""
    return "<h3>Of the documents of the results, which source pays least</h3>" + bars(rows) + paragraph(said)


def mass(left: Left) -> Section:
    """Where the probability of the sources' rows went, and how the target's tokens lie to theirs."""
    found = _learnt_from(left)
    if found is None:
        return Section("mass", "Mass of each source", left_out=_why_not(left))
    if not found["mass"]:
        return Section(
            "mass", "Mass of each source", left_out="this alignment keeps no account of its mass; byte_exact does"
        )
    budgets = {
        s: [Part(k, its[k], MASS_COLOURS[k], "#15181c") for k in MASS_CLASSES] for s, its in found["mass"].items()
    }
    body = paragraph("Where the probability went that each source gave, on the rows where it is aligned:") + bars(
        budgets
    )
    body += key({f"{kind}: {MASS_MEANING[kind]}": MASS_COLOURS[kind] for kind in MASS_CLASSES})
    if found["rows"]:
        rows = [[s, *(f"{its[kind]:.1%}" for kind in ROW_CLASSES)] for s, its in found["rows"].items()]
        body += "<h3>How the target's next token lies to the source's, share of these rows</h3>" + table(
            ["", *(ROW_MEANING[kind] for kind in ROW_CLASSES)], rows
        )
    return Section("mass", "Mass of each source", body)


def disagreement(left: Left) -> Section:
    """How far apart the sources were, over training."""
    title = "Disagreement"
    fused = left.fits.get("fused")
    name = fused.name if fused else next((fit for fit in left.curves if fit.startswith("fused-")), "")
    points = points_of(left.curves.get(name, {}), DISAGREEMENT)
    if not points:
        reason = "of an evaluation: the page of its run has it" if left.evaluated else OLDER
        return Section("disagreement", title, left_out=f"no step of the fused fit is in the folder ({reason})")
    changes = [
        p for n, p in enumerate(points) if n == 0 or p[1] != points[n - 1][1]
    ]  # it is measured once in some steps
    mean = sum(value for _, value in changes) / len(changes)
    said = (
        f"How far apart the sources are, {mean:.3f} nats a row on the mean: their Jensen-Shannon divergence, each source with the same weight, 0 where all say "
        "the same, and then fusing them is distilling from any one of them."
    )
    chart = figure("Disagreement of the sources", lines([Line(name, "var(--fused)", changes)], TOKENS, "nats a row"))
    return Section("disagreement", title, paragraph(said) + grid([chart]))
