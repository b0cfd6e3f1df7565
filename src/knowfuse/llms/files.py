"""Which files of an LLM's folder or repository are its weights, its tokenizer, its code? As transformers chooses them.

Three questions are asked of them: what has to be here (`LLMFiles.all`), what decides what the LLM says
(`knowfuse.llms.fingerprint`), and what an export adds to what `save_pretrained` writes (`code`).
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
CARD = "README.md"  # says the licence
# One format, the first that is there, as `from_pretrained` looks for them.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER = "tokenizer.json"
BESIDE_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.*.json")
# What tokenizers are made of where there is no tokenizer.json.
VOCABULARIES = (
    *("vocab*.json", "vocab*.txt", "merges.txt", "vocab.bpe", "encoder.json", "tekken.json"),
    *("*.model", "*.model.v*", "*.tiktoken"),
)
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
GENERATION = ("generation_config.json",)
CODE = ("*.py",)
READ_BY_CODE = ("*.json", "*.txt")  # by which names, the code alone knows
NOT_READ = (*WEIGHTS, *GENERATION, CONFIG, "chat_template.json", "README*", "LICENSE*", "*.index.json")


@dataclass(frozen=True)
class LLMFiles:
    """Names within the folder, `/` between its parts, sorted."""

    config: list[str]
    weights: list[str]  # of one format; all of those that its index names
    index: list[str]
    tokenizer: list[str]  # what decides how a text is cut
    vocabularies: list[str]  # what a tokenizer.json makes superfluous
    templates: list[str]
    generation: list[str]
    code: list[str]  # only where it is trusted, with what it may read
    card: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        """What has to be here for transformers to load the LLM and its tokenizer, and what says its licence."""
        return sorted({name for names in vars(self).values() for name in names})


def llm_files(names: Collection[str], read: Callable[[str], bytes], is_trusted: bool) -> LLMFiles:
    """What these names are for an LLM whose code is trusted, or not; `read` gives the content of a small one.

    ValueError where a file of weights that an index names is missing, where a configuration or an index is no JSON object, and
    for an adapter, to which transformers would add weights from elsewhere.
    """
    if ADAPTER in names:
        raise ValueError(
            f"{ADAPTER} says that it is an adapter: merge it into its base (peft's merge_and_unload) and save that"
        )
    vocabularies = _matching(names, VOCABULARIES)
    is_fast = TOKENIZER in names and not is_trusted
    tokenizer = [*_matching(names, BESIDE_TOKENIZER), *([TOKENIZER] if TOKENIZER in names else [])]
    code = [n for n in names if fnmatchcase(n, "*.py")] if is_trusted else []
    if is_trusted:
        code += [n for n in _matching(names, READ_BY_CODE) if not _matching([n], NOT_READ)]
    weights, index = _weights(names, read)
    return LLMFiles(
        config=[CONFIG] if CONFIG in names else [],
        weights=weights,
        index=index,
        tokenizer=sorted(tokenizer if is_fast else {*tokenizer, *vocabularies}),
        vocabularies=vocabularies if is_fast else [],
        templates=_matching(names, TEMPLATES),
        generation=_matching(names, GENERATION),
        code=sorted(set(code) - set(tokenizer) - set(vocabularies)),
        card=[CARD] if CARD in names else [],
    )


def names_in(folder: Path) -> list[str]:
    """What is in the folder itself, additional chat templates, and code wherever it lies below."""
    names = {p.name for p in folder.iterdir() if p.is_file()}
    names |= {p.relative_to(folder).as_posix() for p in folder.glob("additional_chat_templates/*") if p.is_file()}
    return sorted(names | {p.relative_to(folder).as_posix() for p in folder.rglob("*.py")})


def files_in(folder: Path, is_trusted: bool) -> LLMFiles:
    """`llm_files` of a folder."""
    return llm_files(names_in(folder), lambda name: (folder / name).read_bytes(), is_trusted)


def _matching(names: Collection[str], patterns: Collection[str]) -> list[str]:
    """Those that fit a pattern with as many folders in it, sorted; `*` does not reach into a folder."""
    return sorted(
        {name for name in names for p in patterns if name.count("/") == p.count("/") and fnmatchcase(name, p)}
    )


def _weights(names: Collection[str], read: Callable[[str], bytes]) -> tuple[list[str], list[str]]:
    """The files of weights that transformers loads, and their index; none where there are none."""
    chosen = json_object(CONFIG, read(CONFIG)).get("transformers_weights") if CONFIG in names else None
    first = chosen or next((name for name in WEIGHTS if name in names), None)
    if first is None:
        return [], []
    if not first.endswith(".index.json"):
        return [first], []
    of_tensors = json_object(first, read(first)).get("weight_map")
    if not isinstance(of_tensors, dict):
        raise ValueError(f"{first} has no weight_map, which says the file of each tensor")
    files = sorted(set(of_tensors.values()))
    if missing := [file for file in files if file not in names]:
        raise ValueError(f"{first} names {missing[0]}, which is not there ({len(missing)} of {len(files)} are missing)")
    return files, [first]


def json_object(name: str, data: bytes) -> dict[str, Any]:
    """ValueError where it is none."""
    try:
        found = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} holds a {type(found).__name__}, not an object")
    return found
