"""Which files of an LLM are brought here, and what decides what it says?"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from knowfuse.llms.gguf_parts import part_names
from knowfuse.types import LLMSpec

LLM_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.bin"]
TOKENIZER_FILES = ["*.json", "*.model", "*.txt"]  # and the configuration: all that is needed of an LLM that is served


def download(name: str, spec: LLMSpec, patterns: Sequence[str] = LLM_FILES) -> Path:
    """The folder of a hub id in the hub's cache; ValueError where it is not to be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    assert spec.path is not None
    try:
        files = patterns if spec.gguf_file is None else part_names(spec.gguf_file)
        return Path(snapshot_download(spec.path, revision=spec.revision, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"LLM {name!r}: {spec.path!r} is neither a folder here nor on the hub ({type(error).__name__}): "
            "check the path, or download it and give the folder"
        ) from error


def fingerprint(folder: Path, spec: LLMSpec) -> str:
    """A hash of file contents; the hub's cache names large files by theirs, which saves reading them."""
    # Before its products were in its dtype, a 4-bit LLM said something else.
    quantization = f"4bit in {spec.dtype}" if spec.quantization == "4bit" else spec.quantization
    digest = hashlib.sha256(json.dumps([spec.dtype, quantization, spec.tokenizer]).encode())
    for path in sorted(p for pattern in LLM_FILES for p in folder.glob(pattern)):
        blob = path.resolve().name
        digest.update(path.name.encode())
        if path.is_symlink() and len(blob) == 64:
            digest.update(blob.encode())
            continue
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
