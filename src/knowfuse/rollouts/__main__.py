"""What the trained target of a run writes: documents from prompts, which the sources read and a next run trains on.

python -m knowfuse.rollouts run=outputs/quickstart/2026-01-31_12-00-00
python -m knowfuse.rollouts run=outputs/quickstart/2026-01-31_12-00-00 prompts=mine.txt n=4 temperature=0.7
"""

from pathlib import Path

from omegaconf import DictConfig

from knowfuse.commands.command import command
from knowfuse.rollouts.of_run import Asked, rollouts_of
from knowfuse.rollouts.sampling import Sampling
from knowfuse.runs.trained import trained_of
from knowfuse.screen import quiet_libraries
from knowfuse.settings import require_types


@command("rollouts", Path.cwd() / "conf")
def main(cfg: DictConfig) -> None:
    """Writes them into the cache, and says where."""
    quiet_libraries()
    if cfg.run is None:
        raise ValueError("run is not set: give it the folder of a finished run, such as run=outputs/<name>/<date_time>")
    sampling = Sampling(cfg.n, cfg.temperature, cfg.prompt_tokens, cfg.new_tokens, cfg.seed)
    given = {name: cfg[name] for name in Asked.__dataclass_fields__}
    require_types(Asked, given)
    rollouts_of(trained_of(cfg.run, cfg.method), sampling, Asked(**given))


if __name__ == "__main__":
    main()
