"""How are shares of a whole shown? Bars whose parts are as wide as they are large, with the key of their colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

LEAST_LABELLED = 0.09  # share of a bar that has room for its own figure


@dataclass(frozen=True)
class Part:
    """A share, between 0 and 1, of a bar."""

    name: str
    share: float
    colour: str
    ink: str = "var(--paper)"  # of the figure on it


def bars(rows: Mapping[str, Sequence[Part]]) -> str:
    """One bar for each name; what is missing to 1 stays empty."""
    lines = [
        f"<span>{escape(name)}</span><div class=bar>{''.join(map(_part, parts))}</div>" for name, parts in rows.items()
    ]
    return f"<div class=bars>{''.join(lines)}</div>"


def key(colours: Mapping[str, str]) -> str:
    """What each colour stands for."""
    items = "".join(
        f"<li><span class=key style='background:{colour}'></span>{escape(name)}</li>"
        for name, colour in colours.items()
    )
    return f"<ul class=keys>{items}</ul>"


def _part(part: Part) -> str:
    figure = f"{part.share:.0%}" if part.share >= LEAST_LABELLED else ""
    title = escape(f"{part.name}: {part.share:.1%}", quote=True)
    return f"<i style='width:{100 * part.share:.2f}%;background:{part.colour};color:{part.ink}' title='{title}'>{figure}</i>"
