"""How does the target of a finished run become a folder that transformers loads?

python -m knowfuse.export run=outputs/quickstart/2026-01-31_12-00-00
"""

from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel

from knowfuse.files import whole_folder
from knowfuse.llms.local import LocalLLM
from knowfuse.llms.saved import save
from knowfuse.progress import quiet_libraries, say
from knowfuse.runs.command import command
from knowfuse.runs.folder import load_run, require_complete

DTYPES = (None, "float32", "bfloat16", "float16")  # of the saved weights; None: the target's own


def export(model: PreTrainedModel, llm: LocalLLM, folder: Path) -> None:
    """Write the model, its configurations and the tokenizer of `llm`, which cuts as it did, to a folder, whole or not at all.

    With its chat templates, and its code where that is trusted.

    ValueError where something is there already.
    """
    require_free(folder)
    with whole_folder(folder) as unfinished:
        save(model, llm, unfinished)


def require_free(folder: Path) -> None:
    """ValueError unless the folder is empty or not there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} is there already, and nothing is overwritten: set folder= to another")


@command("export", Path.cwd() / "conf")
def main(cfg: DictConfig) -> None:
    """The best checkpoint of one method of a run."""
    quiet_libraries()
    run, settings, fits = load_run(require_complete(OmegaConf.masked_copy(cfg, ["run"])).run)
    if cfg.method not in fits:
        raise ValueError(f"run {str(run)!r} has no method {cfg.method!r}: choose one of {sorted(fits)}")
    if cfg.dtype not in DTYPES:
        raise ValueError(f"dtype is {cfg.dtype!r}: choose one of {list(DTYPES)}")
    folder = Path(cfg.folder)
    require_free(folder)
    kept, experiment = fits[cfg.method], hydra.utils.instantiate(settings, _convert_="all")
    prepared = experiment.prepare()
    model = experiment.trained(prepared, cfg.method, kept, run)
    export(model if cfg.dtype is None else model.to(getattr(torch, cfg.dtype)), prepared.target, folder)
    say(f"{cfg.method} of {run}: {kept.best_bits_per_byte:.3f} bits/byte on validation, in {folder}")


if __name__ == "__main__":
    main()
