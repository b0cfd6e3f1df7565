"""Draws the pictures of docs/concepts.md, each by the code that it is about.

    python docs/pictures.py    # docs/pictures/*.svg

Two small tokenizers are trained on the spot, on the standard library's text. The sources that speak are counts: which token followed
which, in code the one, in docstrings the other.
"""

import ast
import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.row_classes import serving_rows
from knowfuse.fusion.avg_ce import avg_ce
from knowfuse.fusion.min_ce import min_ce
from knowfuse.llms.recipes import make_tokenizer
from knowfuse.losses import Headroom, LmWeight
from knowfuse.surface import Surface, surface_of
from knowfuse.text.document import Document
from knowfuse.training.blocks import stacked
from knowfuse.types import (
    MASS_CLASSES,
    AlignedSource,
    AlignedSources,
    Recipe,
    SourceTrace,
    TokenizedDocument,
    TopK,
)

FOLDER = Path(__file__).resolve().parent / "pictures"
TEXT = "Wrap the text in lines of at most"
COLOURS = ["#cfe8ff", "#ffe3c2", "#d8f5d0", "#f6d5f2", "#e8e8e8", "#fff3a8"]
SHAPE: dict[str, Any] = {
    "hidden_size": 8,
    "num_layers": 1,
    "num_heads": 1,
    "context_length": 8,
    "max_steps": 1,
    "batch_tokens": 8,
}
K = 32


def code() -> list[str]:
    return [inspect.getsource(module) for module in (textwrap, inspect, ast)]


def docstrings() -> list[str]:
    trees = (ast.parse(source) for source in code())
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = (ast.get_docstring(node) for tree in trees for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for text in found if text]


def surface(family: Literal["byte_level_bpe", "sentencepiece_bpe"], size: int) -> Surface:
    return surface_of(
        make_tokenizer(Recipe("llama", family, "code", size, **SHAPE, learning_rate=1e-3), code()), family
    )


@dataclass
class Counts:
    """A source that says how often each of its tokens followed the one before."""

    surface: Surface
    texts: Sequence[str]

    @cached_property
    def said(self) -> np.ndarray:
        """Probabilities [V, V] of the token after each."""
        size = self.surface.vocabulary_size
        counts = np.zeros((size, size))
        for text in self.texts:
            ids = self.surface.tokenize(text).input_ids
            np.add.at(counts, (ids[:-1], ids[1:]), 1)
        counts += 0.01 * (counts.sum(0) + 0.01) / counts.sum(0).mean()  # any token may follow, a frequent one sooner
        return counts / counts.sum(1, keepdims=True)

    def trace(self, text: str) -> SourceTrace:
        tokens = self.surface.tokenize(text, is_complete=False)
        probs = self.said[tokens.input_ids]
        ids = np.argsort(-probs)[:, :K]
        gold = probs[np.arange(len(probs) - 1), tokens.input_ids[1:]]
        kept = np.log(np.take_along_axis(probs, ids, 1)).astype(np.float32)
        return SourceTrace(
            tokens.input_ids, tokens.ends, TopK(ids, kept), np.append(-np.log(gold), 0).astype(np.float32)
        )


@dataclass
class Shown:
    """A text as a target cuts it, and what two sources say of it on the target's tokens."""

    target: Surface
    sources: dict[str, Counts]

    @cached_property
    def tokens(self) -> TokenizedDocument:
        return self.target.tokenize(TEXT, is_complete=False)

    @cached_property
    def aligned(self) -> dict[str, AlignedSource]:
        documents = [Document(text, "code", "fusion") for text in docstrings()]
        made = {}
        for name, source in self.sources.items():
            align = byte_exact(TokenizerPair(source.surface, self.target, documents))
            made[name] = align(source.trace(TEXT), self.tokens, TEXT.encode())
        return made

    def pieces(self, ids: np.ndarray, surface: Surface | None = None) -> list[str]:
        spelled = (surface or self.target).token_bytes
        return [(spelled[i] or b"").decode(errors="replace").replace(" ", "·").replace("\n", "⏎") for i in ids.tolist()]


def strip(ax: Axes, y: float, ends: np.ndarray, pieces: Sequence[str], title: str) -> None:
    """A text's tokens, each as wide as its bytes."""
    ax.text(-0.6, y + 0.3, title, ha="right", va="center", fontsize=9)
    for n, (begin, end, piece) in enumerate(zip(ends[:-1], ends[1:], pieces[1:], strict=True)):
        ax.barh(y, end - begin, left=begin, height=0.6, align="edge", color=COLOURS[n % 4], edgecolor="#666", lw=0.6)
        ax.text((begin + end) / 2, y + 0.3, piece, ha="center", va="center", fontsize=8, family="monospace")


def rows(shown: Shown) -> Figure:
    """Row t of the target, and the token that it speaks of."""
    figure, ax = canvas(2.0)
    ends = shown.tokens.ends
    strip(ax, 0, ends, shown.pieces(shown.tokens.input_ids), "tokens")
    for t in range(len(ends) - 1):
        middle = (ends[t] + ends[t + 1]) / 2
        ax.plot([ends[t]], [1.2], "o", color="#1f6fb2", ms=5)
        ax.annotate("", (middle, 0.65), (ends[t], 1.15), arrowprops={"arrowstyle": "->", "color": "#1f6fb2"})
        ax.text(ends[t], 1.4, f"{t}", ha="center", fontsize=8)
        ax.text(ends[t], -0.35, f"{ends[t]}", ha="center", fontsize=7, color="#666")
    ax.text(-0.6, 1.4, "row t", ha="right", va="center", fontsize=9)
    ax.text(-0.6, -0.3, "byte", ha="right", va="center", fontsize=9, color="#666")
    ax.set_ylim(-0.6, 1.8)
    return figure


def served(shown: Shown) -> Figure:
    """Which row of a source serves each row of the target."""
    figure, ax = canvas(2.4)
    source = next(iter(shown.sources.values())).surface
    theirs, ours = source.tokenize(TEXT, is_complete=False), shown.tokens
    strip(ax, 2, theirs.ends, shown.pieces(theirs.input_ids, source), "source")
    strip(ax, 0, ours.ends, shown.pieces(ours.input_ids), "target")
    for end, row in zip(ours.ends[:-1], serving_rows(theirs.ends, ours.ends[:-1]), strict=True):
        exact = theirs.ends[row] == end
        ax.plot([end, theirs.ends[row]], [0.65, 1.95], color="#1f6fb2" if exact else "#d07000", lw=1.4)
    ax.set_ylim(-0.2, 2.8)
    return figure


def mass(shown: Shown) -> Figure:
    """Where the mass of each row of a source goes."""
    figure = Figure((9, 2.8), layout="constrained")
    ax = figure.subplots()
    name, aligned = next(iter(shown.aligned.items()))
    assert aligned.budget is not None
    below, places = np.zeros(len(aligned.nll) - 1), np.arange(len(aligned.nll) - 1)
    for n, kind in enumerate(MASS_CLASSES):
        share = aligned.budget[:-1, n]
        ax.bar(places, share, bottom=below, color=COLOURS[n], edgecolor="#666", lw=0.5, label=kind)
        below += share
    ax.set_xticks(places, shown.pieces(shown.tokens.input_ids[1:]), fontsize=8, family="monospace")
    ax.set_ylabel(f"mass of a row of {name!r}")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def fused(shown: Shown) -> Figure:
    """One row: what each source says of it, and what the rules make of them."""
    stacked, ids, label_bytes = batch(shown)
    t = most_disputed(shown)
    figure = Figure((9, 3.2), layout="constrained")
    axes = figure.subplots(1, 4, sharex=True)
    made = {rule.__name__: rule(stacked, ids, label_bytes) for rule in (min_ce, avg_ce)}
    said = {name: (its.topk.ids[t], np.exp(its.topk.log_probs[t])) for name, its in shown.aligned.items()}
    said |= {name: (its.topk.ids[0, t].numpy(), its.topk.log_probs[0, t].exp().numpy()) for name, its in made.items()}
    label = int(shown.tokens.input_ids[t + 1])
    for ax, (name, (found, probs)) in zip(axes, said.items(), strict=True):
        order = np.argsort(-probs)[:6]
        colours = ["#2e8b57" if found[i] == label else "#9ab8d0" for i in order]
        ax.barh(np.arange(len(order))[::-1], probs[order], color=colours)
        ax.set_yticks(np.arange(len(order))[::-1], shown.pieces(found[order]), fontsize=8, family="monospace")
        ax.set_title(name, fontsize=9)
    read = TEXT.encode()[: shown.tokens.ends[t]].decode()
    figure.supxlabel(f"probability after {read!r}; green: what the text goes on with", fontsize=9)
    return figure


def batch(shown: Shown) -> tuple[AlignedSources, torch.Tensor, torch.Tensor]:
    """The two sources side by side, as a batch of one block has them."""
    sources = stacked([[(0, its)] for its in shown.aligned.values()], len(shown.tokens.ends))
    label_bytes = np.append(np.diff(shown.tokens.ends), 0)
    return sources, torch.ones(1, len(label_bytes), dtype=torch.long), torch.from_numpy(label_bytes)[None].long()


def most_disputed(shown: Shown) -> int:
    """The row, not at the text's beginning, on which the sources give the most different probabilities to the true next token."""
    labels = np.append(shown.tokens.input_ids[1:], -1)[:, None]
    one, other = (np.exp(its.topk.log_probs).sum(-1, where=its.topk.ids == labels) for its in shown.aligned.values())
    is_open = np.maximum(one, other) < 0.8  # where one is certain there is little to see
    differ = np.where(is_open, np.abs(one - other), 0.0)
    return int(np.argmax(differ[3:])) + 3


def weight() -> Figure:
    """Lambda, as validation falls to what the oracle over the sources pays."""
    figure = Figure((6, 2.8), layout="constrained")
    ax = figure.subplots()
    headroom, lm_weight = Headroom(oracle=2.0, before=3.0), LmWeight(0.3, "headroom")
    paid = np.linspace(1.8, 2.6, 200)
    ax.plot(paid, [lm_weight.at(0, 1, headroom.left(bits)) for bits in paid], color="#1f6fb2")
    ax.axvline(headroom.oracle, color="#666", lw=0.8, ls="--")
    ax.text(headroom.oracle - 0.02, 0.4, "oracle over the sources", rotation=90, ha="left", fontsize=8)
    ax.invert_xaxis()
    ax.set_xlabel("validation, bits per byte: it falls as the target learns")
    ax.set_ylabel("lambda")
    ax.set_ylim(0, 1.05)
    return figure


def canvas(height: float) -> tuple[Figure, Axes]:
    figure = Figure((9, height), layout="constrained")
    ax = figure.subplots()
    ax.set_axis_off()
    ax.set_xlim(-4, len(TEXT) + 0.5)
    return figure, ax


def pictures() -> dict[str, Figure]:
    sources = {
        "code": Counts(surface("byte_level_bpe", 700), code()),
        "docstrings": Counts(surface("byte_level_bpe", 500), docstrings()),
    }
    shown = Shown(surface("sentencepiece_bpe", 600), sources)
    return {
        "rows": rows(shown),
        "served": served(shown),
        "mass": mass(shown),
        "fused": fused(shown),
        "lambda": weight(),
    }


if __name__ == "__main__":
    matplotlib.rcParams["svg.hashsalt"] = "knowfuse"
    FOLDER.mkdir(exist_ok=True)
    for name, figure in pictures().items():
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, facecolor="white")
