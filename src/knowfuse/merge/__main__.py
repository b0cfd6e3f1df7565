"""The targets of several runs, merged in parameter space into one folder of transformers, with a card.

python -m knowfuse.merge runs=[outputs/pairs/one,outputs/pairs/other] method=sce folder=merged
"""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from knowfuse.commands.command import command
from knowfuse.export import checksums, folder_of, is_finished, may_be_finished, require_dtype, say_finished, write_note
from knowfuse.files import sha256_of, whole_folder
from knowfuse.llms.merging import Merging, require_mergekit
from knowfuse.merge import Merged, trained_beside, trained_by
from knowfuse.report import show_comparison
from knowfuse.runs.trained import Trained
from knowfuse.screen import quiet_libraries, say


@command("merge", Path.cwd() / "conf")
def main(cfg: DictConfig) -> None:
    """Nothing of the runs is changed."""
    quiet_libraries()
    if not cfg.runs:
        raise ValueError(
            "runs is not set: give the folders of finished runs, such as runs=[outputs/a/<date_time>,outputs/b/<date_time>]"
        )
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    for name in ("runs", "beside"):
        if isinstance(settings[name], str):
            raise ValueError(f"{name} is {settings[name]!r}: give a list, {name}=[{settings[name]}]")
    runs, others = ([str(run) for run in settings[name] or []] for name in ("runs", "beside"))
    how = Merging(settings["method"], settings["shared"], settings["each"], settings["seed"])
    require_dtype(cfg.dtype)
    targets = trained_by(runs, cfg.fit)
    beside = trained_beside(targets, others)
    folder = next(iter(targets.values())).run / f"merged-{how.method}" if cfg.folder is None else folder_of(cfg.folder)
    may_be_finished(folder)
    require_mergekit()
    made_of = {
        **asdict(how),
        "dtype": cfg.dtype,
        **{
            what: {name: _made_of(its) for name, its in those.items()}
            for what, those in (("targets", targets), ("beside", beside))
        },
    }
    if is_finished(folder, made_of):
        say_finished(folder)
        return
    told = shlex.join(["python", "-m", "knowfuse.merge", *sys.argv[1:]])
    with whole_folder(folder) as unfinished:
        table = Merged(targets, how, beside, dtype=cfg.dtype).fill(unfinished, folder.name, told)
        write_note(made_of, unfinished)
    if table is not None:
        show_comparison(table)
    say(f"{len(targets)} targets merged by {how.method}, in {folder}")


def _made_of(trained: Trained) -> dict[str, Any]:
    """What decides a target, and what is said of it."""
    return {"run": sha256_of(trained.run / "config.yaml"), "weights": checksums(trained.checkpoint)}


if __name__ == "__main__":
    main()
