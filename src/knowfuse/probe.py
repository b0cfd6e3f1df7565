"""Will fusing pay? A short look at what the sources know and at what plain CLM would reach, before anyone reads or trains for days.

python -m knowfuse.probe
python -m knowfuse.probe sources=mine target=mine data=text_files 'corpus.files={mine: [mine.txt]}' minutes=10
"""

import json
from dataclasses import asdict
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.table import Table

from knowfuse.commands.command import command
from knowfuse.files import write_whole
from knowfuse.runs.asked import PROBED, require_new
from knowfuse.runs.described import experiment_of
from knowfuse.runs.folder import require_complete
from knowfuse.runs.probing import Probed, probe
from knowfuse.runs.where import register_resolvers
from knowfuse.screen import is_first_rank, quiet_libraries, say, show_table

register_resolvers()
ANSWERS = {
    "yes": "fusing will pay",
    "no": "fusing has little to give: plain CLM on this text ends below all that the sources know of it",
    "open": "it is open whether fusing will pay: plain CLM on this text ends close to what the sources know of it",
}


def show(probed: Probed) -> None:
    """The figures on the screen."""
    table = Table(title=f"Bits per byte on {probed.documents} documents of validation")
    table.add_column("")
    table.add_column("", justify="right")
    for name, bits in probed.sources.items():
        table.add_row(f"source {name}", f"{bits:.3f}")
    table.add_row("oracle over the sources", f"{probed.oracle.value:.3f}")
    table.add_section()
    table.add_row("target before", f"{probed.before:.3f}")
    for part in probed.parts:
        table.add_row(f"plain CLM on {part.num_bytes:,} bytes, {part.steps} steps", f"{part.bits_per_byte:.3f}")
    table.add_row(
        f"plain CLM on all {probed.num_bytes:,}, expected", f"{probed.clm.value:.3f} ± {probed.clm.error:.3f}"
    )
    show_table(table)


def verdict(probed: Probed) -> str:
    """What a user wants to know, in a sentence."""
    gain, pays, passes = probed.payoff.gain, probed.payoff, probed.parts[-1].passes
    return (
        f"{ANSWERS[pays.answer]}: expected gain over plain CLM {gain.value:.3f} ± {gain.error:.3f} bits per byte after {passes:.1f} passes "
        f"over the text; with a probability of {pays.probability:.2f} there is something to gain ({probed.seconds:.0f} s)"
    )


@command("probe", Path.cwd() / "conf", run_dir="${new_folder:outputs/probe}")
def main(cfg: DictConfig) -> None:
    """Writes `probe.json` into its folder; trains nothing that is kept."""
    quiet_libraries()
    require_complete(cfg)
    documents, minutes = cfg.documents, cfg.minutes
    for name, value, kinds in (("documents", documents, (int,)), ("minutes", minutes, (int, float))):
        if type(value) not in kinds or not value > 0:
            raise ValueError(f"{name} is {value!r}: it must be a {'whole ' if kinds == (int,) else ''}number above 0")
    folder = Path(HydraConfig.get().runtime.output_dir)
    require_new(folder)
    experiment = experiment_of(cfg)
    experiment.require_machine()
    probed = probe(experiment, documents, minutes)
    show(probed)
    say(verdict(probed))
    if is_first_rank():
        found = {"answer": probed.payoff.answer, **asdict(probed)}
        write_whole(folder / PROBED, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
