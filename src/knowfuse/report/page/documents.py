"""What did fusing change on single documents: token by token, and in how the target goes on?"""

import math
from collections.abc import Mapping
from html import escape

from knowfuse.evaluation import Continuation, TokenCosts
from knowfuse.evaluation.samples import POINT
from knowfuse.pages import Section, paragraph
from knowfuse.report.left import Left
from knowfuse.report.page.rows import TARGETS

MOST_BITS = 8.0  # per byte of a token, at which its colour is full
MOST_CHANGE = 4.0
NOT_KEPT = "texts are kept where samples= is above 0: python -m knowfuse.report {run} --samples 4 asks the checkpoints for them"

# Which colours are shown is a choice of the reader's, without a script: each token carries them all, in percent.
STYLE = """
.view { position: absolute; opacity: 0; } .views { display: flex; flex-wrap: wrap; gap: .4rem; margin: .8rem 0; }
.views label { border: 1px solid var(--line); border-radius: 999px; cursor: pointer; font-size: .9rem; padding: .15rem .8rem; }
.doc { background: var(--panel); border-radius: .5rem; font: .86rem/1.75 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: .4rem 0 1.2rem;
  overflow-wrap: anywhere; padding: .7rem .9rem; }
.t { border-radius: 2px; box-shadow: inset 0 -1px 0 var(--line); padding: .12em 0; }
.t { background: color-mix(in srgb, var(--better) calc(var(--d) * 1%), transparent); }
.t.w { background: color-mix(in srgb, var(--worse) calc(var(--d) * 1%), transparent); }
#view-b:checked ~ .docs .t { background: color-mix(in srgb, var(--hot) calc(var(--b) * 1%), transparent); }
#view-c:checked ~ .docs .t { background: color-mix(in srgb, var(--hot) calc(var(--c) * 1%), transparent); }
#view-f:checked ~ .docs .t { background: color-mix(in srgb, var(--hot) calc(var(--f) * 1%), transparent); }
#view-d:checked ~ .views [for=view-d], #view-b:checked ~ .views [for=view-b], #view-c:checked ~ .views [for=view-c],
#view-f:checked ~ .views [for=view-f] { border-color: var(--fused); color: var(--fused); font-weight: 600; }
.view:focus-visible ~ .views { outline: 2px solid var(--fused); outline-offset: 3px; }
.scale { background: linear-gradient(to right, var(--worse), transparent, var(--better)); border-radius: .2rem; display: inline-block; height: .8em; width: 7em; print-color-adjust: exact; }
.goes { display: grid; gap: .2rem 1rem; grid-template-columns: max-content 1fr; margin: .4rem 0 1.4rem; }
.goes > :nth-child(odd) { color: var(--soft); font-size: .9rem; } .goes > :nth-child(even) { font: .86rem/1.6 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  overflow-wrap: anywhere; white-space: pre-wrap; min-width: 0; } .goes .point { border-left: 3px solid var(--fused); padding-left: .5rem; }
@media (max-width: 40rem) { .goes { grid-template-columns: 1fr; } .goes > :nth-child(even) { margin-bottom: .5rem; } }
"""
VIEWS = {"target before": ("b", "before"), "target clm": ("c", "plain CLM"), "target fused": ("f", "fused")}


def documents(left: Left) -> Section:
    """What each token of some documents costs, before and after."""
    id, title = "documents", "Documents that gained and lost most"
    if left.samples is None:
        return Section(id, title, left_out=_why(left))
    baseline = left.samples.baseline
    views = {"d": f"fused against {VIEWS[baseline][1]}"} | {
        letter: name for llm, (letter, name) in VIEWS.items() if _has(left, llm)
    }
    inputs = "".join(
        f"<input class=view type=radio name=view id=view-{v}{' checked' if v == 'd' else ''}>" for v in views
    )
    labels = "".join(f"<label for=view-{v}>{escape(name)}</label>" for v, name in views.items())
    lists = ""
    for caption, costs in (("Gained most", left.samples.gained), ("Lost most", left.samples.lost)):
        lists += f"<h3>{caption}</h3>" + (
            "".join(_document(c, baseline, _whole(left, c)) for c in costs) or paragraph("No document did.")
        )
    said = "Each token in the colour of its bits per byte (full at 8), or of what fusing changed (full at 4): "
    legend = f"<p>{escape(said)}<span class=soft>worse <span class=scale></span> better</span>. Point at a token for its figures.</p>"
    return Section(
        id, title, f"{legend}<div>{inputs}<div class='views screen'>{labels}</div><div class=docs>{lists}</div></div>"
    )


def _has(left: Left, llm: str) -> bool:
    assert left.samples is not None
    return any(llm in costs.nats for costs in (*left.samples.gained, *left.samples.lost))


def _why(left: Left) -> str:
    if left.evaluated is not None:
        return "texts of an evaluation are not kept"
    if not left.is_finished:
        return left.why["samples.json"]
    return NOT_KEPT.format(run=left.folder)


def _whole(left: Left, costs: TokenCosts) -> dict[str, float] | None:
    """Bits per byte of all of the document; None where there are no figures by document."""
    if (
        left.documents is None
        or costs.id not in left.documents.ids
        or not costs.nats.keys() <= left.documents.nats.keys()
    ):
        return None
    row = left.documents.ids.index(costs.id)
    bits = math.log(2) * max(int(left.documents.num_bytes[row]), 1)
    return {llm: float(left.documents.nats[llm][row]) / bits for llm in costs.nats}


def _document(costs: TokenCosts, baseline: str, whole: Mapping[str, float] | None) -> str:
    """Its tokens, under what it pays as a `whole`, by which it was chosen; None: what those that are shown pay."""
    size = sum(costs.num_bytes)
    bits = whole or {llm: sum(nats) / math.log(2) / max(size, 1) for llm, nats in costs.nats.items()}
    figures = ", ".join(f"{VIEWS[llm][1]} {value:.3f}" for llm, value in bits.items())
    more = bits[POINT] - bits[baseline]
    shown = (
        "" if costs.tokens == len(costs.pieces) else f"; below, the first {len(costs.pieces)} of {costs.tokens} tokens"
    )
    head = f"{costs.domain}, {more:+.3f} bits per byte ({figures}{shown})"
    tokens = "".join(_token(costs, n, baseline) for n in range(len(costs.pieces)))
    return f"<p class=soft>{escape(head)}</p><div class=doc>{tokens}</div>"


def _token(costs: TokenCosts, n: int, baseline: str) -> str:
    bits = {llm: nats[n] / math.log(2) / max(costs.num_bytes[n], 1) for llm, nats in costs.nats.items()}
    change = bits[POINT] - bits[baseline]
    colours = {"d": _percent(abs(change), MOST_CHANGE)} | {
        VIEWS[llm][0]: _percent(b, MOST_BITS) for llm, b in bits.items()
    }
    style = ";".join(f"--{letter}:{percent}" for letter, percent in colours.items())
    title = ", ".join(f"{VIEWS[llm][1]} {b:.2f}" for llm, b in bits.items()) + " bits per byte"
    text = escape(costs.pieces[n]).replace("⏎", "⏎<br>").replace("·", "<wbr>·")
    return f"<span class='t{' w' if change > 0 else ''}' style='{style}' title='{title}'>{text}</span>"


def _percent(value: float, most: float) -> int:
    return round(70 * min(value / most, 1.0))


def continuations(left: Left) -> Section:
    """How the target goes on from some beginnings, before and after."""
    id, title = "continuations", "How the target goes on"
    if left.samples is None:
        return Section(id, title, left_out=_why(left))
    if not left.samples.continuations:
        return Section(id, title, left_out="no document of the test split is long enough to be begun and gone on with")
    said = "Beginnings of documents that it was not trained on, each followed by what is most probable next; nothing is drawn by lot."
    return Section(id, title, paragraph(said) + "".join(map(_continuation, left.samples.continuations)))


def _continuation(one: Continuation) -> str:
    rows = [("the text", one.true, "")]
    rows += [
        (VIEWS[llm][1], text, " point" if llm == POINT else "") for llm, text in one.went_on.items() if llm in TARGETS
    ]
    lines = "".join(
        f"<span>{escape(name)}</span><span class='{kind.strip()}'>{escape(text)}</span>" for name, text, kind in rows
    )
    begun = f"<span>{escape(one.domain)}, begun</span><span><b>{escape(one.beginning)}</b></span>"
    return f"<div class='goes keep'>{begun}{lines}</div>"
