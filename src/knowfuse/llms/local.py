"""Where does an LLM come from, and how is it loaded?"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from knowfuse.llms.attention import require_attending, require_attention, require_kernel
from knowfuse.llms.checks import require_causal, require_said_rows
from knowfuse.llms.dispatched import offload_folder, whereabouts
from knowfuse.llms.files import files_in
from knowfuse.llms.fingerprint import fingerprint
from knowfuse.llms.gguf import converted
from knowfuse.llms.hub import download, download_tokenizer
from knowfuse.progress import at_work
from knowfuse.ranks import ranks
from knowfuse.screen import say
from knowfuse.surface import Surface, surface_of
from knowfuse.surface.conversations import chat_surface
from knowfuse.surface.loading import load_tokenizer, reason
from knowfuse.surface.templates import template_of
from knowfuse.types import LLMSpec


@dataclass(frozen=True)
class LocalLLM:
    """An LLM whose files are on this machine. `name` is what tables, logs and errors call it."""

    name: str
    spec: LLMSpec  # its path is a local folder that transformers loads
    fingerprint: str  # content hash of weights, configuration, tokenizer, dtype and quantisation

    @property
    def folder(self) -> Path:
        assert self.spec.path is not None
        return Path(self.spec.path)

    def surface(self, is_chat: bool = False) -> Surface:
        """The surface of its tokenizer, with the rows of its model; `is_chat`: of conversations, in its chat template.

        ValueError for one that cannot be read or that hides its bytes, for a `bos` or `eos` that is none, and for a chat
        template that is not there, or that cannot write a question and an answer.
        """
        spec = self.spec
        with at_work(f"tokenizer of {self.name}"):
            tokenizer = self.tokenizer()
            surface = surface_of(tokenizer, self.name, spec.bos, spec.eos, self.rows())
        if not is_chat:
            return surface
        return chat_surface(
            surface, tokenizer, template_of(tokenizer, self.name, spec.chat_template, spec.chat_variables)
        )

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The one that cuts as the tokenizer.json says, where there is one; ValueError for one that cannot be read."""
        spec = self.spec
        place = spec.tokenizer or self.folder
        with self._reading("tokenizer", place, "give a folder or a hub id with a whole tokenizer as its `tokenizer:`"):
            return load_tokenizer(place, spec.trust_remote_code)

    def config(self) -> PretrainedConfig:
        """Of its text model; ValueError for one that cannot be read."""
        return self._config().get_text_config()

    def context_length(self) -> int:
        """Tokens that it can hold; its configuration says so under one of these names. Without attention: any number."""
        config = self.config()
        for key in ("max_position_embeddings", "max_seq_len", "n_positions", "seq_length", "context_length"):
            if isinstance(length := getattr(config, key, None), int):
                return length
        if getattr(config, "num_attention_heads", None) is None:
            return sys.maxsize
        raise ValueError(f"the configuration of LLM {self.name!r} does not say how many tokens it can hold")

    def rows(self) -> int:
        """Token ids that the model has rows for: embeddings and logits. Its configuration says so; weights are not looked at."""
        if isinstance(rows := getattr(self._config().get_text_config(), "vocab_size", None), int):
            return rows
        raise ValueError(f"the configuration of LLM {self.name!r} does not say how many tokens its model has rows for")

    def _config(self) -> PretrainedConfig:
        with self._reading("configuration", self.folder, "its `path:` must hold the config.json of a causal LLM"):
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=self.spec.trust_remote_code)

    def load(self) -> PreTrainedModel:
        """The model in evaluation mode, in the spec's dtype, quantisation and attention, on the CPU.

        ValueError for one that cannot be read, or that is not causal.
        """
        model = self._load(self._on(torch.device("cpu")))
        require_causal(model, self.name)
        return model

    @contextmanager
    def to_read(self, cache: Path) -> Iterator[PreTrainedModel]:
        """The same on this process's accelerator, if there is one; with a `device_map` where accelerate puts its layers.

        Then weights that no memory has room for stay on disk, in a folder of the cache where they are not there as they are
        used; it is gone after the block.
        """
        if self.spec.device_map is None:
            device = torch.device("cuda", ranks().local) if torch.cuda.is_available() else torch.device("cpu")
            model = self._load(self._on(device))
            if self.spec.quantization is None:
                model = model.to(device)  # pyright: ignore[reportArgumentType]  (its wrapper hides self)
            require_causal(model, self.name)
            yield model
            return
        with offload_folder(cache, self.name) as folder:
            room = self.spec.max_memory and dict(self.spec.max_memory)  # accelerate writes into it
            model = self._load({"device_map": self.spec.device_map, "max_memory": room, "offload_folder": folder})
            say(f"LLM {self.name}: {whereabouts(model)}")
            require_causal(model, self.name)
            yield model

    def _on(self, device: torch.device) -> dict[str, Any]:
        """What makes transformers load it on a device: quantised weights are where they were made, others are moved."""
        return {} if self.spec.quantization is None else {"device_map": {"": device}}

    def _load(self, placing: dict[str, Any]) -> PreTrainedModel:
        """Where `placing`, of `from_pretrained`, puts it; on the CPU where it says nothing."""
        spec = self.spec
        dtype = getattr(torch, spec.dtype)
        quantization = None
        if spec.quantization is not None:
            quantization = BitsAndBytesConfig(
                load_in_8bit=spec.quantization == "8bit",
                load_in_4bit=spec.quantization == "4bit",
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=dtype,
            )
        with self._reading("weights", self.folder, "its `path:` must hold all the files of a causal LLM, whole"):
            loaded: Any = auto_class(self._config()).from_pretrained(
                self.folder,
                output_loading_info=True,
                dtype=dtype,
                trust_remote_code=spec.trust_remote_code,
                **({"attn_implementation": spec.attention} if spec.attention else {}),
                **placing,
                **({"quantization_config": quantization} if quantization else {}),
            )
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"LLM {self.name!r}: {len(missing)} weights that its configuration asks for are not in {self.folder}, the first "
                f"{missing[0]!r}, and would be random: its `path:` must hold all the files of a causal LLM, whole"
            )
        require_attending(model, self.name, spec.attention)
        require_said_rows(model, self.name, self.rows())
        for module in model.modules():
            # In evaluation on a CPU with AVX512-BF16, bitsandbytes packs 4-bit weights anew, rounds their scales to bfloat16,
            # and cuts every gradient from then on: a model that was scored once would not learn.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return model

    @contextmanager
    def _reading(self, what: str, place: Path | str, wanted: str) -> Iterator[None]:
        """Whatever the libraries raise over files, and most of it names no LLM, as a ValueError that does."""
        try:
            yield
        except Exception as error:
            if "custom code" in str(error) and not self.spec.trust_remote_code:
                wanted = "read its code, and set its `trust_remote_code: true` if you trust it"
            raise ValueError(
                f"LLM {self.name!r}: its {what} cannot be read from {place} ({reason(error)}): {wanted}"
            ) from error


def auto_class(config: PretrainedConfig) -> Any:
    """transformers' class that makes the model of a configuration: some that read pictures too are not among causal ones."""
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def architecture_of(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class of the model of a configuration; None where its code, which is its own, has to be loaded to know."""
    return auto_class(config)._model_mapping.get(type(config), None)


def localize(name: str, spec: LLMSpec, cache: Path | None = None) -> LocalLLM:
    """The LLM of a spec with a path: a folder as it is, a hub id downloaded to the hub's cache, a GGUF file converted to ours.

    ValueError where one of them cannot be had, where the folder lacks files that it names, where it cannot attend as the spec
    says, or for a GGUF file without a cache; without one, checksums of weights are not remembered either.
    """
    assert spec.path is not None
    require_attention(name, spec)
    folder = Path(spec.path).expanduser()
    if folder.is_file():
        raise ValueError(
            f"LLM {name!r}: {spec.path!r} is a file: give its folder as `path:`, a GGUF file as `gguf_file:`"
        )
    if not folder.is_dir():
        folder = download(name, spec)
    if spec.gguf_file is not None:
        if cache is None:
            raise ValueError(f"LLM {name!r} comes from a GGUF file, which is converted into a cache: say which")
        folder = converted(name, spec, folder, cache)
    tokenizer = spec.tokenizer
    if tokenizer is not None and not Path(tokenizer).expanduser().exists():
        tokenizer = str(download_tokenizer(name, tokenizer, None, spec.trust_remote_code))
    spec = replace(spec, path=str(folder), recipe=None, gguf_file=None, tokenizer=tokenizer)
    try:
        files = files_in(folder, spec.trust_remote_code)
        with at_work(f"checksums of {name}"):
            content = fingerprint(folder, spec, files, None if cache is None else cache / "checksums")
    except ValueError as error:
        raise ValueError(
            f"LLM {name!r}: its files cannot be read from {folder} ({error}): its `path:` must hold all the files of a causal LLM, "
            "whole"
        ) from error
    llm = LocalLLM(name, spec, content)
    if spec.attention is not None:
        require_kernel(name, spec.attention, architecture_of(llm._config()))
    return llm


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Let each decoder layer run a second time in the backward pass; ValueError for a model that does not know how."""
    # transformers 5 has both names; the older one warns once there is the newer.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ValueError(f"{error} Set activation_checkpointing=false") from error
