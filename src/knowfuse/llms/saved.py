"""How does a model become a folder that transformers loads? With the tokenizer, templates and code of the LLM that it was."""

import shutil
from pathlib import Path

from safetensors.torch import save_file
from transformers import PreTrainedModel

from knowfuse.llms.files import files_in
from knowfuse.llms.finetune import ADAPTER, adapters
from knowfuse.llms.local import LocalLLM
from knowfuse.surface.loading import save_tokenizer
from knowfuse.surface.templates import template_of


def save(model: PreTrainedModel, llm: LocalLLM, folder: Path, base: str | None = None, is_chat: bool = False) -> None:
    """Its weights and configurations, and the tokenizer of `llm`, which cuts as it did, in a folder that is there.

    Of a model with adapters those alone, in peft's format; `base` is the LLM that peft puts them into, None: that of `llm`. One that
    learnt conversations, `is_chat`, stops generating where its template ends an answer, too.
    """
    if adapters(model):
        _save_adapters(model, base or str(llm.folder), folder)
    else:
        if is_chat:
            _stop_at(model, llm.surface(is_chat=True).eos_id)
        _save_whole(model, llm, folder)
    save_tokenizer_of(llm, folder)


def _save_whole(model: PreTrainedModel, llm: LocalLLM, folder: Path) -> None:
    model.save_pretrained(folder)
    for name in files_in(llm.folder, llm.spec.trust_remote_code).code:
        if not (copy := folder / name).exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(llm.folder / name, copy)


def _stop_at(model: PreTrainedModel, turn_end: int | None) -> None:
    how = model.generation_config
    assert how is not None, "it generates"
    stops = [how.eos_token_id] if isinstance(how.eos_token_id, int) else how.eos_token_id or []
    if turn_end is not None and turn_end not in stops:
        how.eos_token_id = [turn_end, *stops]


def _save_adapters(model: PreTrainedModel, base: str, folder: Path) -> None:
    from peft import LoraConfig  # here: it takes a second to import, and bitsandbytes with it

    layers = adapters(model)
    first = next(iter(layers.values()))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=first.r[ADAPTER],
        lora_alpha=first.lora_alpha[ADAPTER],
        target_modules=list(layers),
        base_model_name_or_path=base,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    weights = {
        f"base_model.model.{name}.lora_{part}.weight": getattr(layer, f"lora_{part}")[ADAPTER]
        .weight.detach()
        .contiguous()
        for name, layer in layers.items()
        for part in ("A", "B")
    }
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})


def save_tokenizer_of(llm: LocalLLM, folder: Path) -> None:
    """The tokenizer that cuts as that of `llm` does, with the chat template that its spec asks for, or its own."""
    tokenizer, spec = llm.tokenizer(), llm.spec
    if spec.chat_template is not None:
        tokenizer.chat_template = template_of(tokenizer, llm.name, spec.chat_template, spec.chat_variables).source
    save_tokenizer(tokenizer, folder, spec.trust_remote_code)
