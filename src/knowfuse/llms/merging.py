"""How do several LLMs become one in parameter space? By mergekit, where all were tuned from one and the same LLM.

Averaging weights means something for LLMs that lie near one another: copies of one LLM, tuned apart. Neuron n of an LLM that was
trained from other random numbers has nothing to do with neuron n of the first, whatever their shapes, so those are refused.

Sources: Wortsman et al. 2203.05482 (`linear`, the mean), Yadav et al. 2306.01708 (`ties`), Wan et al. 2408.07990 (`sce`);
mergekit 2403.13257.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from knowfuse.files import make_folder_once
from knowfuse.llms.local import LocalLLM
from knowfuse.llms.saved import save_tokenizer_of

INSTALL = "pip install -e '.[merge]'"
FROM_BASE = ("ties", "sce")  # that merge differences to the LLM that all were tuned from
METHODS = ("linear", *FROM_BASE)
LEAST_COSINE = 0.5  # of all matrices with those of the base: tuned copies 0.8 and more, other random numbers about 0
# Entries of a config.json that say nothing of the shape.
NO_SHAPE = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "_attn_implementation_internal",
}


def merge(
    llms: Mapping[str, LocalLLM],
    base: LocalLLM,
    folder: Path,
    method: str,
    shared: Mapping[str, Any] | None = None,
    each: Mapping[str, Any] | None = None,
) -> bool:
    """Merge these LLMs, all tuned from `base`, into a folder that transformers loads; whether it had to be made.

    `shared` are mergekit's parameters of the method, `each` those of every LLM: `ties` takes `density` and `weight` of each,
    `sce` the shared `select_topk`. ValueError where mergekit is missing, for an unknown method, and for LLMs that cannot be merged.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: choose one of {list(METHODS)}")
    require_mergekit()
    parameters = dict(each or {"weight": 1.0})
    settings: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": str(llm.folder.resolve()), "parameters": parameters} for llm in llms.values()],
        "parameters": dict(shared or {}),
        "dtype": "float32",
    }
    if method in FROM_BASE:
        settings["base_model"] = str(base.folder.resolve())

    def fill(unfinished: Path) -> None:
        require_mergeable(llms, base)
        _run(settings, base, unfinished)

    return make_folder_once(folder, fill)


def require_mergekit() -> None:
    """ValueError with the line that installs it, where it is missing."""
    if find_spec("mergekit") is None:
        raise ValueError(f"merging needs mergekit, which is not installed: {INSTALL}")


def _run(settings: dict[str, Any], base: LocalLLM, folder: Path) -> None:
    from mergekit.config import MergeConfiguration  # here: it is an extra
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(settings), str(folder), options)
    save_tokenizer_of(base, folder)


def require_mergeable(llms: Mapping[str, LocalLLM], base: LocalLLM) -> None:
    """ValueError that says why, unless all have the shape and the tokenizer of `base` and weights near its own."""
    ours, tokens = _shape(base), base.surface().fingerprint
    for name, llm in llms.items():
        theirs = _shape(llm)
        if odd := next((key for key in sorted(ours | theirs) if ours.get(key) != theirs.get(key)), None):
            raise ValueError(
                f"{name!r} cannot be merged with {base.name!r}: {odd} is {theirs.get(odd)!r} in the one and {ours.get(odd)!r} in the "
                "other, and weights are averaged number by number: merge copies of one LLM that were tuned apart, or fuse these"
            )
        if llm.surface().fingerprint != tokens:
            raise ValueError(
                f"{name!r} cannot be merged with {base.name!r}: they cut texts into other tokens, so a row of an embedding is "
                "another token's: merge copies of one LLM that were tuned apart, or fuse these"
            )
    start = _matrices(base)
    for name, llm in llms.items():
        if (cosine := _cosine(_matrices(llm), start)) < LEAST_COSINE:
            raise ValueError(
                f"{name!r} cannot be merged with {base.name!r}: the cosine between their weights is {cosine:.2f}, so it was not tuned "
                f"from it (copies have more than {LEAST_COSINE}), and the mean of unlike weights is no LLM: give the LLM that it was "
                "tuned from, or fuse these"
            )


def _shape(llm: LocalLLM) -> dict[str, Any]:
    return {key: value for key, value in llm.config().to_dict().items() if key not in NO_SHAPE}


def _matrices(llm: LocalLLM) -> dict[str, torch.Tensor]:
    """Norms and biases left out, which begin alike whatever the random numbers."""
    return {name: value.detach().float() for name, value in llm.load().named_parameters() if value.dim() > 1}


def _cosine(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    product = sum(float((ours[name] * theirs[name]).sum(dtype=torch.float64)) for name in theirs)
    sizes = [sum(float(value.square().sum(dtype=torch.float64)) for value in side.values()) for side in (ours, theirs)]
    return product / (sizes[0] * sizes[1]) ** 0.5
