"""What decides what an LLM says, as one hash: weights, configuration, how it cuts a text, and its code where that runs."""

import hashlib
import json
from pathlib import Path
from typing import Any

from knowfuse.files import sha256_of
from knowfuse.llms.files import ADAPTER, CONFIG, WEIGHTS, LLMFiles, json_object, llm_files, names_in
from knowfuse.types import LLMSpec

FORMAT_VERSION = 2
# Of a configuration: who wrote it and in which dtype. The spec's dtype is what counts, and hashed.
SAYS_NOTHING = ("_name_or_path", "_model_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template"  # decides how a conversation is written out, not what is said of a text


def fingerprint(folder: Path, spec: LLMSpec, files: LLMFiles, memo: Path | None) -> str:
    """The hash of an LLM in a folder with these files; checksums of large ones are remembered in `memo`.

    Not in it: the name and place of the folder, generation_config.json, chat templates, notes, what else lies beside it, and
    code that is not trusted; nor the device and the attention kernel, by which what it says differs in the rounding of sums
    alone, where dtype and quantisation decide what its weights are.
    """
    # Before its products were in its dtype, a 4-bit LLM said something else.
    quantization = f"4bit in {spec.dtype}" if spec.quantization == "4bit" else spec.quantization
    said_by: list[Any] = [FORMAT_VERSION, spec.dtype, quantization]
    said_by += [_config(folder / name) for name in files.config]
    said_by += [_checksum(folder / name, memo) for name in files.weights]
    said_by += [[name, _checksum(folder / name, memo)] for name in files.code]
    place, cutting = (folder, files) if spec.tokenizer is None else _of_tokenizer(spec)
    said_by += [_cutting(place / name, memo) for name in cutting.tokenizer]
    return hashlib.sha256(json.dumps(said_by, sort_keys=True).encode()).hexdigest()


def _of_tokenizer(spec: LLMSpec) -> tuple[Path, LLMFiles]:
    """The folder of the tokenizer that a spec names, and its files; of one that is a file, that alone."""
    assert spec.tokenizer is not None
    place = Path(spec.tokenizer).expanduser()
    if place.is_dir():
        beside = [name for name in names_in(place) if name not in (*WEIGHTS, ADAPTER)]
        return place, llm_files(beside, lambda name: (place / name).read_bytes(), spec.trust_remote_code)
    return place.parent, LLMFiles([], [], [], [place.name] if place.is_file() else [], [], [], [], [])


def _config(path: Path) -> list[Any]:
    config = json_object(CONFIG, path.read_bytes())
    return [CONFIG, {key: value for key, value in config.items() if key not in SAYS_NOTHING}]


def _cutting(path: Path, memo: Path | None) -> list[Any]:
    """Name and content of a file of a tokenizer, without a chat template."""
    if path.name != TOKENIZER_CONFIG:
        return [path.name, _checksum(path, memo)]
    config = json_object(path.name, path.read_bytes())
    return [path.name, {key: value for key, value in config.items() if key != CHAT_TEMPLATE}]


def _checksum(path: Path, memo: Path | None) -> str:
    """Of a file's content; the hub's cache names large files by theirs, which saves reading them."""
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and len(blob.name) == 64:
        return blob.name
    return sha256_of(path, memo)
