"""The report as one HTML page without any other file."""

from collections.abc import Mapping, Sequence
from html import escape

from knowfuse.align_report.example import Example, Piece, PredictedPiece
from knowfuse.evaluation import AlignmentQuality
from knowfuse.types import MASS_CLASSES

COLOURS: dict[str, str] = dict(
    zip(MASS_CLASSES, ("#4c9f70", "#8ecae6", "#f2c14e", "#e07a5f", "#9d4edd", "#c9c9c9"), strict=True)
)
MEANING: dict[str, str] = dict(
    zip(
        MASS_CLASSES,
        (
            "went to a target token that takes all of a source token's bytes",
            "went to the first target token of a source token's bytes",
            "of true target tokens that span several source tokens, along the true chain",
            "of source tokens that end where the row begins: what follows them is unknown",
            "that no target token begins with",
            "that the source did not keep",
        ),
        strict=True,
    )
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .2rem .7rem; text-align: right; }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left; }
tr + tr { border-top: 1px solid #ddd; }
.line { line-height: 2.6; font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
.token { border: 1px solid #999; border-radius: 3px; padding: .1rem .15rem; margin: 0 1px; white-space: pre; }
.token sub { color: #555; font-size: .65em; } .none { background: #fff; border-style: dashed; }
.key { display: inline-block; width: 1em; height: 1em; vertical-align: -.15em; }
"""


def page(qualities: Mapping[str, Mapping[str, AlignmentQuality]], examples: Sequence[Example]) -> str:
    """`qualities` by source and method; one example per source."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Alignment</title>",
        f"<style>{STYLE}</style></head><body><h1>What each alignment keeps of what the sources said</h1>",
        _figures(qualities),
        "<h2>Where the probability of a row goes</h2><p>",
        "<br>".join(f"{_key(kind)} <b>{kind}</b>: {escape(MEANING[kind])}" for kind in MASS_CLASSES),
        "</p>",
        *(_example(example) for example in examples),
        "</body></html>",
    ]
    return "\n".join(parts)


def _figures(qualities: Mapping[str, Mapping[str, AlignmentQuality]]) -> str:
    head = ("source", "method", "alignment loss, bits per byte", "own tokenizer", "coverage", "top-1 fidelity")
    head += MASS_CLASSES
    rows = [f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"]
    for source, methods in qualities.items():
        for method, quality in methods.items():
            cells = [escape(source), escape(method), f"{quality.loss_bits_per_byte:.4f}"]
            cells += ["" if quality.identity_bits_per_byte is None else f"{quality.identity_bits_per_byte:.4f}"]
            cells += [f"{quality.coverage:.3f}", f"{quality.top1_fidelity:.3f}"]
            cells += [f"{quality.budget[kind]:.4f}" if quality.budget else "" for kind in MASS_CLASSES]
            rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _key(kind: str) -> str:
    return f"<span class='key' style='background:{COLOURS[kind]}'></span>"


def _example(example: Example) -> str:
    theirs = "".join(_source_token(u, piece) for u, piece in enumerate(example.source_pieces, 1))
    ours = "".join(_target_token(piece) for piece in example.target_pieces)
    return (
        f"<h2>{escape(example.source)} → {escape(example.target)}</h2>"
        f"<p>The text as <b>{escape(example.source)}</b> cuts it; each token with the number of the row that it ends "
        f"(row 0 is the beginning):</p><p class='line'>{theirs}</p>"
        f"<p>As <b>{escape(example.target)}</b> cuts it; each token with the source row that served the row which "
        "predicts it, in the colours of that row's mass; point at one to read what was said:</p>"
        f"<p class='line'>{ours}</p>"
    )


def _source_token(row: int, piece: Piece) -> str:
    return f"<span class='token'>{escape(piece.text)}<sub>{row}</sub></span>"


def _target_token(piece: PredictedPiece) -> str:
    if piece.served_by is None:
        return f"<span class='token none' title='not aligned'>{escape(piece.text)}</span>"
    after = f" after {piece.residual!r}" if piece.residual else ""
    lines = [f"source row {piece.served_by}{after}: {piece.probability:.4f} on this token"]
    lines += [f"{text!r} {p:.4f}" for text, p in piece.best]
    lines += [f"{kind} {mass:.4f}" for kind, mass in piece.budget.items() if mass > 0]
    return (
        f"<span class='token' style='background:{_gradient(piece.budget)}' title='{escape(chr(10).join(lines))}'>"
        f"{escape(piece.text)}<sub>{piece.served_by}</sub></span>"
    )


def _gradient(budget: Mapping[str, float]) -> str:
    """Bands of the classes' colours, as wide as their masses."""
    stops, at = [], 0.0
    for kind, mass in budget.items():
        stops.append(f"{COLOURS[kind]} {100 * at:.1f}% {100 * (at + mass):.1f}%")
        at += mass
    return f"linear-gradient(to right, {', '.join(stops)})"
