"""The report as one HTML page without any other file."""

from collections.abc import Mapping, Sequence
from html import escape

from knowfuse.align_report.example import Example, Piece, PredictedPiece
from knowfuse.evaluation import AlignmentQuality
from knowfuse.pages import MARKER_COLOUR, MASS_COLOURS, MASS_MEANING, Part, Section, bars, key, page, paragraph, table
from knowfuse.types import MASS_CLASSES

MARKER = "marker of a chat template"
EDGE = f"border-bottom:3px solid {MARKER_COLOUR}"  # of its box
MARKERS = ("source", "method", "share of the target's tokens", "ends of turns", "aligned", "top-1 fidelity")
HEADING = ("source", "method", "alignment loss, bits per byte", "own tokenizer", "coverage", "top-1 fidelity")


def alignment_page(qualities: Mapping[str, Mapping[str, AlignmentQuality]], examples: Sequence[Example]) -> str:
    """`qualities` by source and method; one example per source."""
    meaning = "".join(f"<li><b>{kind}</b>: {escape(MASS_MEANING[kind])}</li>" for kind in MASS_CLASSES)
    sections = [
        Section("figures", "Figures", _figures(qualities)),
        *([Section("markers", "What the chat templates add", _markers(qualities))] if _has_markers(qualities) else []),
        Section("mass", "Where the probability of a row goes", f"{_budgets(qualities)}<ul>{meaning}</ul>"),
        *(
            Section(f"example-{n}", f"{example.source} → {example.target}", _example(example))
            for n, example in enumerate(examples)
        ),
    ]
    return page("What each alignment keeps of what the sources said", "", sections)


def _figures(qualities: Mapping[str, Mapping[str, AlignmentQuality]]) -> str:
    rows = []
    for source, methods in qualities.items():
        for method, quality in methods.items():
            lost = quality.identity_bits_per_byte
            figures = [f"{quality.loss_bits_per_byte:.4f}", "" if lost is None else f"{lost:.4f}"]
            rows.append([source, method, *figures, f"{quality.coverage:.3f}", f"{quality.top1_fidelity:.3f}"])
    return table(HEADING, rows, {(r, 1): "text" for r in range(len(rows))})


def _has_markers(qualities: Mapping[str, Mapping[str, AlignmentQuality]]) -> bool:
    return any(quality.markers for methods in qualities.values() for quality in methods.values())


def _markers(qualities: Mapping[str, Mapping[str, AlignmentQuality]]) -> str:
    rows = [
        [source, method, f"{m.share:.1%}", f"{m.turn_ends}", f"{m.coverage:.3f}", f"{m.top1_fidelity:.3f}"]
        for source, methods in qualities.items()
        for method, quality in methods.items()
        if (m := quality.markers)
    ]
    said = (
        "Markers take no bytes of a message. Of them only the end of a turn that is learnt is aligned, with that of the source; the "
        "others are no rows of the figures above. The identity's are the source's own."
    )
    return (
        paragraph(said)
        + table(MARKERS, rows, {(r, 1): "text" for r in range(len(rows))})
        + key({MARKER: MARKER_COLOUR})
    )


def _budgets(qualities: Mapping[str, Mapping[str, AlignmentQuality]]) -> str:
    rows = {
        f"{source}, {method}": [Part(k, quality.budget[k], MASS_COLOURS[k], "#15181c") for k in MASS_CLASSES]
        for source, methods in qualities.items()
        for method, quality in methods.items()
        if quality.budget
    }
    return bars(rows) + key(MASS_COLOURS)


def _example(example: Example) -> str:
    theirs = "".join(_source_token(u, piece) for u, piece in enumerate(example.source_pieces, 1))
    ours = "".join(_target_token(piece) for piece in example.target_pieces)
    cut = f"The text as {example.source} cuts it; each token with the number of the row that it ends (row 0 is the beginning):"
    served = (
        f"As {example.target} cuts it; each token with the source row that served the row which predicts it, in the colours of "
        "that row's mass; point at one to read what was said:"
    )
    return f"{paragraph(cut)}<p class=line>{theirs}</p>{paragraph(served)}<p class=line>{ours}</p>"


def _source_token(row: int, piece: Piece) -> str:
    return f"<span class=token{_marked(piece)}>{escape(piece.text)}<sub>{row}</sub></span>"


def _marked(piece: Piece) -> str:
    return f" style='{EDGE};color:var(--soft)'" if piece.is_marker else ""


def _target_token(piece: PredictedPiece) -> str:
    if piece.served_by is None:
        why = f"{MARKER}, not learnt" if piece.is_marker else "not aligned"
        return f"<span class='token none' title='{why}'{_marked(piece)}>{escape(piece.text)}</span>"
    after = f" after {piece.residual!r}" if piece.residual else ""
    edge = f";{EDGE}" if piece.is_marker else ""
    lines = [f"source row {piece.served_by}{after}: {piece.probability:.4f} on this token"]
    lines += [f"{text!r} {p:.4f}" for text, p in piece.best]
    lines += [f"{kind} {mass:.4f}" for kind, mass in piece.budget.items() if mass > 0]
    return (
        f"<span class=token style='background:{_gradient(piece.budget)}{edge}' title='{escape(chr(10).join(lines))}'>"
        f"{escape(piece.text)}<sub>{piece.served_by}</sub></span>"
    )


def _gradient(budget: Mapping[str, float]) -> str:
    """Bands of the classes' colours, as wide as their masses."""
    stops, at = [], 0.0
    for kind, mass in budget.items():
        stops.append(f"{MASS_COLOURS[kind]} {100 * at:.1f}% {100 * (at + mass):.1f}%")
        at += mass
    return f"linear-gradient(to right, {', '.join(stops)})"
