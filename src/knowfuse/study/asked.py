"""What is a study asked? Its command line, which stands over its tables."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path


def asked_of(parser: argparse.ArgumentParser, script: str, line: Sequence[str] | None = None) -> argparse.Namespace:
    """What the parser makes of a line of `benchmarks/<script>`, None: of this process.

    It has two things more: `results`, the folder that `--results` names (docs/results of the script's project), and `command`, the line
    in backticks and without that folder, since the tables are the same wherever they are written.
    """
    root = Path(script).resolve().parent.parent
    parser.add_argument("--results", type=Path, default=root / "docs" / "results", help="folder of the tables")
    where = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    where.add_argument("--results")
    words = list(sys.argv[1:] if line is None else line)
    asked = parser.parse_args(words)
    _, others = where.parse_known_args(words)
    asked.command = f"`{shlex.join(['python', f'benchmarks/{Path(script).name}', *others])}`"
    return asked
