"""The results of a finished run as the Markdown table of the README.

python -m knowfuse.report outputs/quickstart/2026-01-31_12-00-00
"""

import argparse
import json
from pathlib import Path

from knowfuse.files import undamaged
from knowfuse.report.results import markdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder, such as outputs/quickstart/<date_time>")
    path = Path(str(parser.parse_args().run).removeprefix("run=")) / "results.json"
    if not path.exists():
        parser.error(f"{str(path)!r} is not there: give the folder of a finished run, or finish it with train.py")
    with undamaged(path, "remove it and run train.py with that run's settings and ckpt_path=last, which makes it anew"):
        table = markdown(json.loads(path.read_text(encoding="utf-8")))
    print(table)


if __name__ == "__main__":
    main()
