"""The report of a run: one HTML page and its Markdown, in the run's folder; the table on the screen.

python -m knowfuse.report outputs/quickstart/2026-01-31_12-00-00
python -m knowfuse.report outputs/quickstart/2026-01-31_12-00-00 --samples 4

Nothing is asked but the folder, which may be a copy on another machine. With --samples the checkpoints of its fits are asked
too, on one device: what each token of some test documents costs, and how the target goes on from some beginnings.
"""

import argparse
from functools import partial
from pathlib import Path

import hydra

from knowfuse.commands.command import told
from knowfuse.evaluation import DOCUMENTS, Samples
from knowfuse.report.left import left_by
from knowfuse.report.results import markdown
from knowfuse.report.written import write_page
from knowfuse.runs.folder import load_run
from knowfuse.runs.sampled import sampled
from knowfuse.screen import quiet_libraries, say
from knowfuse.text.quoting import path_override


def main() -> None:
    """Print the table of a run, and write its page."""
    parser = argparse.ArgumentParser(
        prog="python -m knowfuse.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run folder, such as outputs/quickstart/<date_time>")
    parser.add_argument("--samples", type=int, metavar="N", help="test documents of each kind: gained, lost, begun")
    asked = parser.parse_args()
    run = Path(str(asked.run).removeprefix("run="))
    if asked.samples is not None and asked.samples < 1:
        parser.error(f"--samples is {asked.samples}: it must be at least 1")
    with told("Make room there, or copy the run to a folder that you may write to"):
        try:
            left = left_by(run)
        except FileNotFoundError as error:
            parser.error(str(error))
        if left.results is not None:
            say(markdown(left.results))
        write_page(run, None if asked.samples is None else ask(run, asked.samples))


def ask(run: Path, number: int) -> Samples | None:
    """The checkpoints of a finished run. ValueError where one, its LLM or its text is not on this machine."""
    quiet_libraries()
    scores = left_by(run).documents
    _, settings, fits = load_run(run)
    if scores is None:
        raise ValueError(
            f"{str(run)!r} has no {DOCUMENTS}, which says what gained and lost: run python evaluate.py {path_override('run', run)}, and copy the "
            f"{DOCUMENTS} that it writes into the run's folder"
        )
    experiment = hydra.utils.instantiate({**settings, "samples": number}, _convert_="all")
    experiment.trainer = partial(experiment.trainer, accelerator="auto", devices=1, num_nodes=1, strategy="auto")
    prepared = experiment.prepare_target()
    return sampled(experiment, prepared, fits, run, prepared.corpus.split("test"), scores)


if __name__ == "__main__":
    main()
