"""How do the tables of studies stand in a page? They are written from the CSV files, and never by hand."""

import re
from pathlib import Path

from knowfuse.files import undamaged, write_whole
from knowfuse.study.table import markdown, read_lines

# A file beside the page, and the columns that are shown of it; all where none is named. No block goes over another's beginning.
BLOCK = re.compile(r"(<!-- table: (\S+)((?: [^\s>]+)*) -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)
BEGINS = re.compile(r"<!--\s*table\b.*")


def with_tables(page: Path) -> str:
    """The page with every table as its CSV file says now, and below it how that was made.

    ValueError where it names no table, one that does not end, or a file or a column that is not there.
    """
    with undamaged(page, "take it from git"):
        text = page.read_text(encoding="utf-8")
    whole = {found.start() for found in BLOCK.finditer(text)}
    if begun := [found for found in BEGINS.finditer(text) if found.start() not in whole]:
        raise ValueError(
            f"{str(page)!r}, line {text[: begun[0].start()].count(chr(10)) + 1}, {begun[0][0]!r} is no whole table: begin it by "
            "<!-- table: <file>.csv [column ...] -->, and end it by <!-- end --> before the next one begins"
        )
    if not whole:
        raise ValueError(
            f"{str(page)!r} names no table: put one between <!-- table: <file>.csv [column ...] --> and <!-- end -->"
        )

    def block(found: re.Match[str]) -> str:
        file = page.parent / found[2]
        if not file.exists():
            raise ValueError(f"{str(page)!r} names {found[2]}, which is not beside it: run the study that writes it")
        return f"{found[1]}{printed(file, found[3].split())}\n{found[4]}"

    return BLOCK.sub(block, text)


def printed(file: Path, columns: list[str]) -> str:
    """The Markdown table of a CSV file, and what its heading says."""
    heading, lines = read_lines(file)
    return "\n\n".join([markdown(lines, columns), *heading])


def write_tables(page: Path) -> None:
    """Write every table of the page again."""
    write_whole(page.resolve(), with_tables(page).encode())
