"""How is a page put together: its head, what there is on it, and what is left out of it and why?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from knowfuse.pages.style import STYLE


@dataclass(frozen=True)
class Section:
    """A part of a page; where what it needs is not there, `left_out` says why, and what to run."""

    id: str
    title: str
    body: str = ""
    left_out: str = ""


def page(title: str, lead: str, sections: Sequence[Section], style: str = "") -> str:
    """An HTML file that is whole in itself; `lead` and the sections' bodies are HTML, all else is text."""
    links = "".join(f"<a href='#{s.id}'{' class=out' if not s.body else ''}>{escape(s.title)}</a>" for s in sections)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'><meta name='color-scheme' content='light dark'>",
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>",
        f"<header><h1>{escape(title)}</h1>{lead}<nav>{links}</nav></header><main>",
        *map(_section, sections),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(section: Section) -> str:
    left_out = f"<p class=out>Left out: {escape(section.left_out)}</p>" if section.left_out else ""
    return f"<section id='{section.id}'><h2>{escape(section.title)}</h2>{section.body}{left_out}</section>"


def paragraph(text: str, kind: str = "") -> str:
    """A text, which stays text whatever markup it holds; `kind` is a class of the style."""
    return f"<p class='{kind}'>{escape(text)}</p>" if kind else f"<p>{escape(text)}</p>"


def figure(caption: str, body: str) -> str:
    """A chart, or bars, under what they show."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{body}</figure>"


def grid(figures: Iterable[str]) -> str:
    """Beside one another where there is room, one after another where there is none."""
    return f"<div class=grid>{''.join(figures)}</div>"
