"""How does a table look in Markdown?"""

from collections.abc import Sequence


def capital(text: str) -> str:
    """The text with a capital in front; names in it stay as they are."""
    return text[:1].upper() + text[1:]


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A line for the heading and one for each row; whatever a cell holds stays in it."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |" for line in lines
    )
