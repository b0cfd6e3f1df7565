"""Where does an LLM come from, and how does it read packed documents?"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from knowfuse.ranks import ranks
from knowfuse.surface import Surface, surface_of
from knowfuse.types import LLMSpec

LLM_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.gguf", "*.bin"]


@dataclass(frozen=True)
class LocalLLM:
    """An LLM whose files are on this machine. `name` is what tables, logs and errors call it."""

    name: str
    spec: LLMSpec  # its path is a local folder
    fingerprint: str  # content hash of weights, configuration, tokenizer, dtype and quantisation

    @property
    def folder(self) -> Path:
        assert self.spec.path is not None
        return Path(self.spec.path)

    def surface(self) -> Surface:
        """The surface of its tokenizer; ValueError for one that cannot be read, or that hides its bytes."""
        return surface_of(self.tokenizer(), self.name)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """ValueError for one that cannot be read."""
        spec = self.spec
        place = spec.tokenizer or self.folder
        with self._reading("tokenizer", place, "give a folder or a hub id with a whole tokenizer as its `tokenizer:`"):
            return AutoTokenizer.from_pretrained(
                place,
                gguf_file=None if spec.tokenizer else spec.gguf_file,
                trust_remote_code=spec.trust_remote_code,
            )

    def context_length(self) -> int:
        """Tokens that it can hold; its configuration says so under one of three names."""
        with self._reading("configuration", self.folder, "its `path:` must hold the config.json of a causal LLM"):
            config = AutoConfig.from_pretrained(
                self.folder, gguf_file=self.spec.gguf_file, trust_remote_code=self.spec.trust_remote_code
            )
        for key in ("max_position_embeddings", "max_seq_len", "n_positions"):
            if isinstance(length := getattr(config, key, None), int):
                return length
        raise ValueError(f"the configuration of LLM {self.name!r} does not say how many tokens it can hold")

    def load(self) -> PreTrainedModel:
        """The model in evaluation mode, in the spec's dtype and quantisation, on the CPU.

        ValueError for one that cannot be read, or that is not causal.
        """
        model = self._load(torch.device("cpu"))
        require_causal(model, self.name)
        return model

    def load_on_device(self) -> PreTrainedModel:
        """The same on this process's accelerator, if there is one."""
        device = torch.device("cuda", ranks().local) if torch.cuda.is_available() else torch.device("cpu")
        model = self._load(device)
        if self.spec.quantization is None:
            model = model.to(device)  # pyright: ignore[reportArgumentType]  (its wrapper hides self)
        require_causal(model, self.name)
        return model

    def _load(self, device: torch.device) -> PreTrainedModel:
        """On the CPU; what is quantised while it is loaded, on `device`."""
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
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self.folder,
                output_loading_info=True,
                gguf_file=spec.gguf_file,
                dtype=dtype,
                trust_remote_code=spec.trust_remote_code,
                **({"quantization_config": quantization, "device_map": {"": device}} if quantization else {}),
            )
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"LLM {self.name!r}: {len(missing)} weights that its configuration asks for are not in {self.folder}, the first "
                f"{missing[0]!r}, and would be random: its `path:` must hold all the files of a causal LLM, whole"
            )
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
            raise ValueError(
                f"LLM {self.name!r}: its {what} cannot be read from {place} ({_reason(error)}): {wanted}"
            ) from error


def localize(name: str, spec: LLMSpec) -> LocalLLM:
    """The LLM of a spec with a path: a folder as it is, a hub id downloaded to the hub's cache."""
    assert spec.path is not None
    folder = Path(spec.path).expanduser()
    if not folder.is_dir():
        folder = _download(name, spec)
    spec = replace(spec, path=str(folder), recipe=None)
    return LocalLLM(name, spec, _fingerprint(folder, spec))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0].strip()}"


def _download(name: str, spec: LLMSpec) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    assert spec.path is not None
    try:
        return Path(snapshot_download(spec.path, revision=spec.revision, allow_patterns=LLM_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"LLM {name!r}: {spec.path!r} is neither a folder here nor on the hub ({type(error).__name__}): "
            "check the path, or download it and give the folder"
        ) from error


def _fingerprint(folder: Path, spec: LLMSpec) -> str:
    """A hash of file contents; the hub's cache names large files by theirs, which saves reading them."""
    # Before its products were in its dtype, a 4-bit LLM said something else.
    quantization = f"4bit in {spec.dtype}" if spec.quantization == "4bit" else spec.quantization
    digest = hashlib.sha256(json.dumps([spec.dtype, quantization, spec.tokenizer, spec.gguf_file]).encode())
    for path in sorted(p for pattern in LLM_FILES for p in folder.glob(pattern)):
        blob = path.resolve().name
        digest.update(path.name.encode())
        if path.is_symlink() and len(blob) == 64:
            digest.update(blob.encode())
            continue
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def require_causal(model: PreTrainedModel, name: str) -> None:
    """ValueError if what comes later moves what the model says before it (an encoder with an LM head, for example).

    Both texts are in one batch: what a quantised layer decides for a batch is the same for both. Logits that are not
    finite pass: who reads documents names the one where that happens.
    """
    ids = torch.arange(1, 9, device=model.device).repeat(2, 1)
    ids[1, 4:] += 1
    try:
        with torch.no_grad():
            one, other = model(input_ids=ids % embedding_rows(model), use_cache=False).logits[:, :4].float()
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"LLM {name!r} cannot read a text of 8 tokens on {model.device.type} ({_reason(error)}): check its files, and "
            "whether its quantisation runs here"
        ) from error
    moved, largest = float((one - other).abs().max()), float(one.abs().max())
    # Equal but for the order of sums; half precision keeps 8 to 11 bits.
    if moved > (1e-5 if model.dtype == torch.float32 else 2e-2) * largest:
        raise ValueError(
            f"LLM {name!r} is not causal: a token that comes later moves the logits before it, by {moved:.3g} where the "
            f"largest is {largest:.3g} ({type(model).__name__}). Give an LLM that reads from left to right, or set "
            "is_decoder in its config.json if it was trained as one"
        )


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Let each decoder layer run a second time in the backward pass; ValueError for a model that does not know how."""
    # transformers 5 has both names; the older one warns once there is the newer.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ValueError(f"{error} Set activation_checkpointing=false") from error


def require_embedded(model: PreTrainedModel, name: str, largest_id: int) -> None:
    """ValueError if the tokens that are to be read, `largest_id` among them, are more than the model has rows for."""
    if largest_id >= (rows := embedding_rows(model)):
        raise ValueError(
            f"LLM {name!r}: its tokenizer gives token id {largest_id}, but its model embeds only the ids below {rows}: set "
            "its `tokenizer:` to the one it was trained with, or leave it out"
        )


def embedding_rows(model: PreTrainedModel) -> int:
    """Token ids that the model can read; often more than its tokenizer has, sometimes fewer."""
    return len(model.get_input_embeddings().weight)  # pyright: ignore[reportArgumentType]


def packed_logits(
    model: nn.Module,
    input_ids: Int[Tensor, "B T"],
    position_ids: Int[Tensor, "B T"],
    document_ids: Int[Tensor, "B T"],
) -> Float[Tensor, "B T V"]:
    """Logits of packed blocks, with attention inside each document only."""
    return model(**packed_inputs(model, input_ids, position_ids, document_ids)).logits


def packed_inputs(
    model: nn.Module,
    input_ids: Int[Tensor, "B T"],
    position_ids: Int[Tensor, "B T"],
    document_ids: Int[Tensor, "B T"],
) -> dict[str, Any]:
    """What a model is called with to read packed blocks.

    The mask is explicit, since not every architecture derives it from position ids; those that have no position ids
    (ALiBi) get none, their biases depend on distances alone.
    """
    mask = _document_mask(document_ids, next(model.parameters()).dtype)
    positions: dict[str, Any] = {} if _has_alibi(model) else {"position_ids": position_ids}
    return {"input_ids": input_ids, "attention_mask": mask, "use_cache": False, **positions}


def _has_alibi(model: nn.Module) -> bool:
    return getattr(model.config, "model_type", None) == "mpt"


def _document_mask(document_ids: Int[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "B 1 T T"]:
    """0 where a token may look, the lowest value that bfloat16 holds too elsewhere; padding looks at itself, so no row is empty."""
    length = document_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids.device).tril()
    may_look = (document_ids[:, :, None] == document_ids[:, None]) & causal
    lowest = max(torch.finfo(dtype).min, torch.finfo(torch.bfloat16).min)
    return torch.zeros_like(may_look, dtype=dtype).masked_fill(~may_look, lowest)[:, None]


def require_isolated_documents(model: nn.Module, vocabulary_size: int) -> None:
    """ValueError if a document can see its neighbour in a packed block of this model (a recurrent one, for example)."""
    device = next(model.parameters()).device
    ids = torch.arange(1, 9, device=device)[None] % vocabulary_size
    changed = ids.clone()
    changed[0, :4] = (changed[0, :4] + 3) % vocabulary_size
    documents = torch.tensor([[1] * 4 + [2] * 4], device=device)
    positions = torch.arange(4, device=device).repeat(2)[None]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            one, other = (packed_logits(model, x, positions, documents)[0, 4:].float() for x in (ids, changed))
    except (RuntimeError, TypeError, ValueError) as error:  # a shape or an argument that its forward does not know
        raise ValueError(
            f"{type(model).__name__} does not take a mask of who may look at whom ({error}): "
            "it cannot be a target with packing"
        ) from error
    model.train(was_training)
    if not bool(torch.isfinite(torch.cat([one, other])).all()):
        raise ValueError(f"the logits of {type(model).__name__} are NaN or infinite: check its weights and dtype")
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{type(model).__name__} lets a document see its neighbour in a packed block (logits move by "
            f"{(one - other).abs().max():.3g}): it cannot be a target with packing"
        )
