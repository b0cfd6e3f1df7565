"""Rounds of a target's own text: it trains, writes, its sources read what it wrote, and it trains on, with one command.

python -m knowfuse.rounds rounds=3
python -m knowfuse.rounds experiment=rounds rounds=3 own.share=0.5 own.lm_weight=0 writing.temperature=0.7
python -m knowfuse.rounds rounds=3 given_only=true

It goes on where it was stopped, and more rounds go on from those that are there.
"""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from knowfuse.commands.command import command
from knowfuse.rollouts import Asked, Sampling
from knowfuse.rounds.line import Writing, rounds
from knowfuse.runs.where import register_resolvers
from knowfuse.screen import console, quiet_libraries, say
from knowfuse.settings import require_types
from knowfuse.study import Point, Runs, markdown, write_lines

register_resolvers()
OURS = ("rounds", "given_only", "writing")  # settings that `train.py` does not have


@command("rounds", Path.cwd() / "conf", run_dir="${new_folder:outputs/rounds}")
def main(cfg: DictConfig) -> None:
    """Prints a line a round, and keeps them in a folder of its own."""
    quiet_libraries()
    if not isinstance(cfg.given_only, bool):
        raise ValueError(f"given_only is {cfg.given_only!r}: it must be true or false")
    point, runs, lines = _point(), Runs(), []
    table = Path(HydraConfig.get().runtime.output_dir) / "rounds.csv"
    heading = [f"`python -m knowfuse.rounds {' '.join(HydraConfig.get().overrides.task)}`"]
    for _, line in rounds(runs, point, cfg.rounds, None if cfg.given_only else _writing(cfg), cfg.seed):
        lines.append(line)
        write_lines(table, heading, lines)
    console.print(markdown(lines), markup=False, highlight=False, soft_wrap=True)
    say(
        f"{table}: this table; the folders of its runs, in {runs.folder}, are what evaluate.py, export and rollouts take"
    )


def _point() -> Point:
    """What the user typed, as far as it is `train.py`'s, with the experiment that is meant where none is named."""
    typed = [
        word
        for word in HydraConfig.get().overrides.task
        if word.lstrip("+~").partition("=")[0].partition(".")[0] not in OURS
    ]
    point = Point.of(typed)
    settings = {key: value for key, value in point.settings.items() if key != "seed"}
    return Point("", {"experiment": HydraConfig.get().runtime.choices["experiment"], **settings})


def _writing(cfg: DictConfig) -> Writing:
    asked: Any = OmegaConf.to_container(cfg.writing, resolve=True)
    of_asked = {key: asked.pop(key) for key in ("prompts", "most_prompts", "batch_documents")}
    require_types(Asked, of_asked, "writing")
    return Writing(Sampling(**asked), Asked(**of_asked))


if __name__ == "__main__":
    main()
