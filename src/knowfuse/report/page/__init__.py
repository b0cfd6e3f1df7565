"""What does a run look like on one page? Each section says what it shows, or what was not there to be shown."""

from html import escape

from knowfuse.pages import page
from knowfuse.report.left import Left
from knowfuse.report.page.documents import STYLE, continuations, documents
from knowfuse.report.page.results import headroom, lead, results
from knowfuse.report.page.settings import settings
from knowfuse.report.page.sources import disagreement, mass, sources
from knowfuse.report.page.training import training

SECTIONS = (results, headroom, training, sources, mass, disagreement, documents, continuations, settings)


def run_page(left: Left) -> str:
    """The HTML file."""
    sections = [make(left) for make in SECTIONS]
    missing = [section for section in sections if section.left_out]
    noted = "".join(f"<li><a href='#{s.id}'>{escape(s.title)}</a>: {escape(s.left_out)}</li>" for s in missing)
    left_out = f"<details class=soft><summary>{len(missing)} of {len(sections)} sections leave something out</summary><ul>{noted}</ul></details>"
    return page(f"knowfuse: {left.name}", lead(left) + (left_out if missing else ""), sections, STYLE)
