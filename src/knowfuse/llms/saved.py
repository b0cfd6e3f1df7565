"""How does a model become a folder that transformers loads? With the tokenizer, templates and code of the LLM that it was."""

import shutil
from pathlib import Path

from transformers import PreTrainedModel

from knowfuse.llms.files import files_in
from knowfuse.llms.local import LocalLLM
from knowfuse.surface.loading import save_tokenizer


def save(model: PreTrainedModel, llm: LocalLLM, folder: Path) -> None:
    """Its weights and configurations, and the tokenizer of `llm`, which cuts as it did, in a folder that is there."""
    model.save_pretrained(folder)
    for name in files_in(llm.folder, llm.spec.trust_remote_code).code:
        if not (copy := folder / name).exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(llm.folder / name, copy)
    save_tokenizer_of(llm, folder)


def save_tokenizer_of(llm: LocalLLM, folder: Path) -> None:
    """The tokenizer that cuts as that of `llm` does, with its chat templates."""
    save_tokenizer(llm.tokenizer(), folder, llm.spec.trust_remote_code)
