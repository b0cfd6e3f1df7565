"""The table of a study from its CSV file, or all tables of a page, written again from theirs.

python -m knowfuse.study docs/results/study_intervals.csv row mean more
python -m knowfuse.study docs/results.md
"""

import argparse
from pathlib import Path

from knowfuse.commands.command import told
from knowfuse.study.page import printed, write_tables


def main() -> None:
    """Print the table of a file, or write those of a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a .csv file of a study, or a .md page that names some")
    parser.add_argument("columns", nargs="*", help="of the .csv file; all where none is named")
    asked = parser.parse_args()
    if not asked.file.is_file() or asked.file.suffix not in (".csv", ".md"):
        parser.error(f"{str(asked.file)!r} is no .csv or .md file that is there: give one of docs/results")
    if asked.file.suffix == ".md" and asked.columns:
        parser.error(f"{str(asked.file)!r} names the columns of its tables itself: leave out {' '.join(asked.columns)}")
    with told("Make room there, or copy the page to a folder that you may write to"):
        if asked.file.suffix == ".md":
            write_tables(asked.file)
        else:
            print(printed(asked.file, asked.columns))


if __name__ == "__main__":
    main()
