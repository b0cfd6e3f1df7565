"""How did the fits get where they are: validation, losses, rates?"""

import math
from collections.abc import Sequence

from knowfuse.pages import Line, Section, figure, grid, key, lines, paragraph, table
from knowfuse.report.left import Left
from knowfuse.training.curves import Rows
from knowfuse.training.finished import Fit

COLOURS = {"clm": "var(--clm)", "fused": "var(--fused)"}
TOKENS = "training tokens"
# What is drawn of every fit: the name in its curves, the caption, the unit, and whether its steps are noisy.
CURVES = (
    ("train/clm_nats", "Loss on the text (CLM)", "nats a token", True),
    ("train/kl_nats", "Distance to the fused target (KL)", "nats a token", True),
    ("train/loss_nats", "What is minimised: lambda · CLM + (1 - lambda) · KL", "nats a token", True),
    ("train/learning_rate", "Learning rate", "", False),
    ("train/lm_weight", "lambda", "", False),
    ("train/gradient_norm", "Norm of the gradient, before clipping", "", True),
    ("train/router_loss", "Use of the experts: 1 is even", "", True),
)
EVEN = ("train/kl_nats", "train/lm_weight")  # the KL of plain CLM, a lambda that stays: they say nothing
SMOOTH = 25  # one part in so many of a curve is one mean


def training(left: Left) -> Section:
    """The curves of every fit, and which was kept."""
    if not left.all_fits and not left.fits and not left.curves:
        return Section("training", "Training", left_out="no fit has begun")
    fits = left.all_fits or {fit.name: fit for fit in left.fits.values()}
    kept = {fit.name for fit in left.fits.values()}
    charts = [figure("Validation", _validation(left, fits))] if fits else []
    for name, caption, unit, is_noisy in CURVES:
        if series := _series(left, name, kept, is_noisy):
            charts.append(figure(caption, lines(series, TOKENS, unit)))
    begun = sorted(left.curves.keys() - fits.keys())
    methods = {name.partition("-")[0] for name in (*fits, *begun)}
    body = key({method: colour for method, colour in COLOURS.items() if method in methods})
    body += grid(charts) + _table(left, fits)
    if begun and not left.is_finished:
        body += paragraph(f"Not finished: {', '.join(begun)}.", "worse")
    left_out = "" if left.curves else f"losses and learning rates by step: {_why(left)}"
    return Section("training", "Training", body, left_out)


def _why(left: Left) -> str:
    if left.evaluated is not None:
        return "an evaluation trains nothing, the page of its run has them"
    return "no fit has a curves.json in its folder, nor a metrics.csv of the CSV logger"


def _colour(name: str) -> str:
    return COLOURS.get(name.partition("-")[0], "var(--soft)")


def _validation(left: Left, fits: dict[str, Fit]) -> str:
    """Every fit; CLM's best as a line, and where the fused fit passes it."""
    kept = {fit.name for fit in left.fits.values()}
    series = [
        Line(name, _colour(name), _way(fit), faint=name not in kept, dotted=name in kept) for name, fit in fits.items()
    ]
    mark = None
    if (clm := left.fits.get("clm")) and (fused := left.fits.get("fused")):
        ends = [tokens for fit in (clm, fused) for tokens, _ in _way(fit)]
        best = min(bits for _, bits in clm.history)
        series.insert(0, Line("CLM's best", "var(--clm)", [(min(ends), best), (max(ends), best)], dashed=True))
        sooner = (left.results or {}).get("tokens_to_clm_final")
        if sooner is not None:
            at = min(clm.history, key=lambda point: point[1])[0] / sooner
            mark = (
                at,
                best,
                f"CLM's best, {sooner:.1f}x sooner" if sooner >= 1 else f"CLM's best, {1 / sooner:.1f}x later",
            )
    return lines(series, TOKENS, "bits per byte", mark)


def _way(fit: Fit) -> list[tuple[float, float]]:
    return [(float(tokens), bits) for tokens, bits in fit.history]


def _series(left: Left, name: str, kept: set[str], is_noisy: bool) -> list[Line]:
    """The curve of each fit that has one; the noise of the steps behind its running mean."""
    series = []
    for fit, rows in left.curves.items():
        points = points_of(rows, name)
        if not points or (name in EVEN and len({value for _, value in points}) == 1):
            continue
        is_aside = bool(kept) and fit not in kept
        if is_noisy and len(points) > SMOOTH:
            series.append(Line(fit, _colour(fit), points, faint=True))
            points = smoothed(points, math.ceil(len(points) / SMOOTH))
        series.append(Line(fit, _colour(fit), points, faint=is_aside))
    return series


def points_of(rows: Rows, name: str) -> list[tuple[float, float]]:
    """(training tokens, value) of the steps that have one."""
    return [(row.get("train/tokens", float(step)), row[name]) for step, row in rows.items() if name in row]


def smoothed(points: Sequence[tuple[float, float]], size: int) -> list[tuple[float, float]]:
    """The mean of so many points on each side of every one, fewer at the ends."""
    means = []
    for n, (at, _) in enumerate(points):
        reach = min(size, n, len(points) - 1 - n)
        near = [value for _, value in points[n - reach : n + reach + 1]]
        means.append((at, sum(near) / len(near)))
    return means


def _table(left: Left, fits: dict[str, Fit]) -> str:
    kept = {fit.name for fit in left.fits.values()}
    rows = []
    for fit in fits.values():
        tokens, bits = min(fit.history, key=lambda point: point[1])
        state = "kept" if fit.name in kept else ""
        rows.append(
            [fit.name, f"{fit.learning_rate:g}", f"{bits:.4f}", f"{tokens:,}", f"{fit.history[-1][0]:,}", state]
        )
    if not rows:
        return ""
    return table(["fit", "learning rate", "best on validation, bits per byte", "after tokens", "of", ""], rows)
