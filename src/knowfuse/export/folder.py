"""How does a target become a folder that transformers loads, whole or not at all?"""

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel

from knowfuse.files import whole_folder
from knowfuse.llms.local import LocalLLM
from knowfuse.llms.saved import save

DTYPES = (None, "float32", "bfloat16", "float16")  # of the saved weights; None: the target's own


def export(
    model: PreTrainedModel,
    llm: LocalLLM,
    folder: Path,
    *beside: Callable[[Path], object],
    base: str | None = None,
    is_chat: bool = False,
) -> None:
    """Write the model, or its adapters alone where it has some, its configurations and the tokenizer of `llm`, which cuts as it did.

    With its chat template, and its code where that is trusted; `base` is what adapters are put into, `is_chat` as for `save`. Each of `beside` then adds
    to the folder; where one fails, nothing is there. ValueError where something is there already.
    """
    require_free(folder)
    with whole_folder(folder) as unfinished:
        save(model, llm, unfinished, base, is_chat)
        for add in beside:
            add(unfinished)


def folder_of(asked: str) -> Path:
    """The folder that is meant; behind a link, or `.`, the one that is there, since a folder takes its place at the end."""
    folder = Path(asked).expanduser()
    return folder.resolve() if folder.is_symlink() or not folder.name else folder


def require_free(folder: Path) -> None:
    """ValueError unless the folder is empty or not there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} is there already, and nothing is overwritten: set folder= to another")


def require_dtype(dtype: str | None) -> None:
    """ValueError for one that weights are not saved in."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: choose one of {list(DTYPES)}")
