"""How do the LLMs of a configuration become tiny, their architectures as they are? As recipes, with random weights."""

import copy
import json
import zlib
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from knowfuse.llms.known import llm_config
from knowfuse.types import LLMSpec

SENTENCEPIECE = ("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "phi3", "internlm2")  # model types
UNUSED = {"max_steps": 0, "batch_tokens": 1, "learning_rate": 1.0}  # of what is not trained


def scaled(cfg: DictConfig, conf: Path) -> DictConfig:
    """The same configuration, where `scale=tiny` is chosen with a recipe in the place of each LLM that has a path.

    Two that are the same stay the same. ValueError for an LLM whose config.json is not on this machine, and for one whose
    architecture is in its own code.
    """
    if cfg.get("scale") is None:
        return cfg
    sizes: Any = OmegaConf.to_container(cfg.scale, resolve=True)
    made = copy.deepcopy(cfg)
    with open_dict(made):
        del made.scale
        made.target = _tiny("target", cfg.target, sizes, conf)
        made.sources = {name: _tiny(name, spec, sizes, conf) for name, spec in cfg.sources.items()}
    return made


def _tiny(name: Any, node: DictConfig, sizes: dict[str, Any], conf: Path) -> Any:
    spec: LLMSpec = hydra.utils.instantiate(node, _convert_="all")
    if spec.recipe is not None:
        return OmegaConf.to_container(node, resolve=True)
    if spec.trust_remote_code:
        raise ValueError(
            f"LLM {name!r}: {spec.path!r} brings code of its own, of which scale=tiny makes nothing: name another for the try"
        )
    like = llm_config(str(name), spec, conf).to_diff_dict()
    recipe = {
        "_target_": "knowfuse.types.Recipe",
        "architecture": "like",
        "tokenizer_family": "sentencepiece_bpe" if like["model_type"] in SENTENCEPIECE else "byte_level_bpe",
        "domain": None,
        "seed": zlib.crc32(str(spec.path).encode()) % 1000,
        **sizes,
        **UNUSED,
        "like": json.loads(json.dumps(like, default=str)),
    }
    return {"_target_": "knowfuse.types.LLMSpec", "recipe": recipe, "chat_template": "plain"}
