"""How does a GGUF file become a folder that transformers loads? Converted once, and kept in the cache."""

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from knowfuse.files import make_folder_once, sha256_of
from knowfuse.llms.gguf_parts import join, part_names, require_whole, stem
from knowfuse.progress import counting
from knowfuse.surface.loading import reason
from knowfuse.types import LLMSpec
from knowfuse.unwritable import as_os_error

FORMAT_VERSION = 1  # of what is made; another makes every folder again


def converted(name: str, spec: LLMSpec, folder: Path, cache: Path) -> Path:
    """`<cache>/gguf/<file>-<hash>`: weights in the spec's dtype, configurations, tokenizer and chat template of its GGUF file.

    The hash is of the file's content and of the dtype: a weight that takes 4 bits there takes 2 or 4 bytes here, and is what
    transformers makes of it. Memory is twice that of the model in this dtype. ValueError where a part is missing, the file cannot be
    read, or the package `gguf` is not installed.
    """
    require_gguf(name)
    assert spec.gguf_file is not None
    names = part_names(spec.gguf_file)
    parts = [folder / part for part in names]
    if absent := [part.name for part in parts if not part.is_file()]:
        raise ValueError(
            f"LLM {name!r}: {absent[0]!r} of its `gguf_file:` is not in {folder} ({len(absent)} of {len(parts)} missing): put it "
            "there, or name the files that are there, all parts of one as a list"
        )
    content = [sha256_of(part, cache / "checksums") for part in parts]
    key = hashlib.sha256(json.dumps([FORMAT_VERSION, spec.dtype, content]).encode()).hexdigest()[:12]
    made = cache / "gguf" / f"{stem(names)}-{key}"
    make_folder_once(made, partial(_convert, name, spec, parts))
    return made


def require_gguf(name: str) -> None:
    """ValueError where the package `gguf`, with which transformers reads such files, is not installed."""
    if find_spec("gguf") is None:
        raise ValueError(
            f"LLM {name!r} comes from a GGUF file, and the package gguf, which reads them, is not installed: "
            "run pip install -e '.[gguf]'"
        )


def _convert(name: str, spec: LLMSpec, parts: list[Path], folder: Path) -> None:
    """Fill the folder. The conversion of transformers is the one that counts; parts are put together for it first."""
    size = sum(part.stat().st_size for part in parts)
    with counting(f"gguf {stem([parts[0].name])}", 2 * size, "bytes") as advance:
        try:
            whole = parts[0]
            if len(parts) > 1:
                join(parts, whole := folder / "whole.gguf")
            else:
                require_whole(whole)
            _save(whole, spec, folder, partial(advance, size))
        except Exception as error:  # whatever the libraries raise over files
            if (found := as_os_error(error)) is not None and found.errno is not None:  # a full disk, for example
                raise
            files = ", ".join(part.name for part in parts)
            raise ValueError(
                f"LLM {name!r}: its GGUF file cannot be read from {parts[0].parent} ({files}; {reason(error)}): its "
                "`gguf_file:` must name a whole file, or all parts of one, of an architecture that transformers knows"
            ) from error
        if len(parts) > 1:
            whole.unlink()


def _save(gguf: Path, spec: LLMSpec, folder: Path, half_done: Callable[[], None]) -> None:
    with redirect_stderr(io.StringIO()):  # a bar of its own, which cannot be turned off; ours is there
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=getattr(torch, spec.dtype),
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{len(missing)} weights are not in it, the first {missing[0]!r}")
    half_done()
    model.save_pretrained(folder)
    try:
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    except Exception:
        if spec.tokenizer is None:  # another is named because nobody can read this one
            raise
    half_done()
