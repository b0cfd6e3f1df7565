"""Corpus, LLMs and traces of a configuration, and nothing else.

python -m knowfuse.prepare sources=quickstart
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from knowfuse.commands.command import command
from knowfuse.runs.prepared import prepare, require_here
from knowfuse.screen import quiet_libraries


@command("prepare", Path.cwd() / "conf")
def main(cfg: DictConfig) -> None:
    """Make what is missing; it prints what that was."""
    quiet_libraries()
    settings = hydra.utils.instantiate(cfg, _convert_="all")
    cache = Path(settings["cache"]).expanduser()
    require_here(settings["target"])
    prepare(
        settings["corpus"](cache=str(cache)),
        settings["target"],
        settings["sources"],
        settings["top_k"],
        cache,
        settings["tracing"],
        kept=settings["traces"],
    )


if __name__ == "__main__":
    main()
