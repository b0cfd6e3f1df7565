"""Of which shape is each LLM, without its weights?"""

import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, PretrainedConfig

from knowfuse.llms.attention import require_kernel
from knowfuse.llms.gguf import require_gguf
from knowfuse.llms.gguf_parts import part_names
from knowfuse.llms.hub import reasons
from knowfuse.llms.local import architecture_of
from knowfuse.llms.recipes import config_of
from knowfuse.types import LLMSpec

FOLDER = "llm_configs"  # in conf: config.json of LLMs on the hub, by <organisation>--<name>


def llm_config(name: str, spec: LLMSpec, conf: Path) -> PretrainedConfig:
    """From its recipe, its folder, the hub's cache on this machine, or `conf/llm_configs`; nothing is downloaded.

    ValueError where none of them has it, naming where to put it, and where it does not attend by the spec's kernel.
    """
    found = _config(name, spec, conf)
    require_kernel(name, spec.attention, architecture_of(found))
    return found


def _config(name: str, spec: LLMSpec, conf: Path) -> PretrainedConfig:
    if spec.recipe is not None:
        return config_of(spec.recipe, spec.recipe.vocabulary_size)
    assert spec.path is not None
    kept = conf / FOLDER / spec.path.replace("/", "--")
    wanted = "config.json" if spec.gguf_file is None else part_names(spec.gguf_file)[0]
    folder = Path(spec.path).expanduser()
    with reasons(name, spec.path, spec.revision):
        cached = None if folder.is_dir() else try_to_load_from_cache(spec.path, wanted, revision=spec.revision)
    place = folder if folder.is_dir() else Path(cached).parent if isinstance(cached, str) else kept
    gguf_file = None if spec.gguf_file is None or place == kept else wanted
    if not (place / (gguf_file or "config.json")).is_file():
        raise ValueError(
            f"LLM {name!r}: {spec.path!r} is no folder here with a {wanted}, and the hub's cache has none of it: put "
            f"its config.json into {kept}/, or run `hf download {spec.path} {wanted}`"
        )
    if gguf_file is not None:
        require_gguf(name)
    try:
        return AutoConfig.from_pretrained(place, gguf_file=gguf_file, trust_remote_code=spec.trust_remote_code)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"LLM {name!r}: {place / (gguf_file or 'config.json')} is not the configuration of a causal LLM of transformers "
            f"({error}): replace it by the LLM's own"
        ) from error
