"""How do several LLMs become one in parameter space? By mergekit, where all were tuned from one and the same LLM.

Averaging weights means something for LLMs that lie near one another: copies of one LLM, tuned apart. Neuron n of an LLM that was
trained from other random numbers has nothing to do with neuron n of the first, whatever their shapes, so those are refused.

Sources: Wortsman et al. 2203.05482 (`linear`, the mean), Ilharco et al. 2212.04089 (`task_arithmetic`), Yadav et al. 2306.01708
(`ties`), Yu et al. 2311.03099 (`dare_linear`, `dare_ties`), Wan et al. 2408.07990 (`sce`); mergekit 2403.13257.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from knowfuse.files import make_folder_once
from knowfuse.llms.local import LocalLLM
from knowfuse.llms.saved import save_tokenizer_of
from knowfuse.progress import at_work
from knowfuse.settings import no_such, require_types
from knowfuse.surface.loading import reason

INSTALL = "pip install -e '.[merge]'"
ARITHMETIC = ("task_arithmetic", "ties", "dare_linear", "dare_ties")
FROM_BASE = (*ARITHMETIC, "sce")  # that merge differences to the LLM that all were tuned from
METHODS = ("linear", *FROM_BASE)
# What mergekit lets each method be told: of all LLMs together, and of each.
SHARED = {
    "linear": ("normalize",),
    "sce": ("select_topk",),
    **dict.fromkeys(ARITHMETIC, ("normalize", "rescale", "lambda")),
}
EACH = {"linear": ("weight",), "sce": (), **dict.fromkeys(ARITHMETIC, ("weight", "density"))}
LEAST_COSINE = 0.5  # of all matrices with those of the base: tuned copies 0.8 and more, other random numbers about 0
# Entries of a config.json that say nothing of the shape.
NO_SHAPE = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "_attn_implementation_internal",
}


@dataclass(frozen=True)
class Merging:
    """A method of mergekit, and what it is told: `shared` of all LLMs together, `each` of every one, a number or a list of theirs.

    `sce` takes the shared `select_topk`, the share of entries that vary most; `linear` the `weight` of each; the others also the
    `density` of each, the share of its differences that is kept, and the shared `lambda`, `normalize` and `rescale`. A weight that
    is not said is 1. `seed` draws what DARE drops. ValueError for what the method does not know.
    """

    method: str = "sce"
    shared: Mapping[str, Any] | None = None
    each: Mapping[str, Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}: choose one of {list(METHODS)}")
        require_types(type(self), vars(self))
        for name, known in (("shared", SHARED[self.method]), ("each", EACH[self.method])):
            if strange := [key for key in getattr(self, name) or {} if key not in known]:
                if not known:
                    raise ValueError(
                        f"{name} sets {strange[0]!r}, and method {self.method} takes nothing there: leave it out"
                    )
                raise ValueError(no_such(f"{name}.{strange[0]}", known))

    def of(self, number: int, count: int) -> dict[str, Any]:
        """What is said of LLM `number` of `count`. ValueError for a list of another length."""
        weight = {"weight": 1.0} if "weight" in EACH[self.method] else {}
        said = {**weight, **(self.each or {})}
        for key, value in said.items():
            if isinstance(value, Sequence) and not isinstance(value, str):
                if len(value) != count:
                    raise ValueError(
                        f"each.{key} is {list(value)}, and {count} LLMs are merged: give one number for all, or {count} of them"
                    )
                said[key] = value[number]
        return said


def merge(llms: Mapping[str, LocalLLM], base: LocalLLM, folder: Path, how: Merging) -> bool:
    """Merge these LLMs, all tuned from `base`, into a folder that transformers loads, in float32; whether it had to be made.

    ValueError where mergekit is missing, for what it refuses, and for LLMs that cannot be merged.
    """
    require_mergekit()
    settings: dict[str, Any] = {
        "merge_method": how.method,
        "models": [
            {"model": str(llm.folder.resolve()), "parameters": how.of(n, len(llms))}
            for n, llm in enumerate(llms.values())
        ],
        "parameters": dict(how.shared or {}),
        "dtype": "float32",
    }
    if how.method in FROM_BASE:
        settings["base_model"] = str(base.folder.resolve())

    def fill(unfinished: Path) -> None:
        require_mergeable(llms, base)
        try:
            with at_work(f"mergekit by {how.method}"):
                _run(settings, base, unfinished, how.seed)
        except Exception as error:  # whatever mergekit, and pydantic before it, raise over a parameter
            raise ValueError(
                f"mergekit does not merge by {how.method} with shared={how.shared} and each={how.each} "
                f"({reason(error)}): see the method's parameters in docs/reference.md"
            ) from error

    return make_folder_once(folder, fill)


def require_mergekit() -> None:
    """ValueError with the line that installs it, where it is missing."""
    if find_spec("mergekit") is None:
        raise ValueError(f"merging needs mergekit, which is not installed: {INSTALL}")


def _run(settings: dict[str, Any], base: LocalLLM, folder: Path, seed: int) -> None:
    from mergekit.config import MergeConfiguration  # here: it is an extra
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    options = MergeOptions(
        copy_tokenizer=False,
        write_model_card=False,
        quiet=True,
        random_seed=seed,
        trust_remote_code=base.spec.trust_remote_code,
    )
    with _without_its_log():
        run_merge(MergeConfiguration.model_validate(settings), str(folder), options)
    save_tokenizer_of(base, folder)


@contextmanager
def _without_its_log() -> Iterator[None]:
    """mergekit tells each step, to loggers of its own and to the root."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def require_mergeable(llms: Mapping[str, LocalLLM], base: LocalLLM) -> None:
    """ValueError that says why, unless all have the shape and the tokenizer of `base` and weights near its own."""
    ours, tokens = _shape(base), base.surface().tokenizer.to_str()
    for name, llm in llms.items():
        theirs = _shape(llm)
        if odd := next((key for key in sorted(ours | theirs) if ours.get(key) != theirs.get(key)), None):
            raise ValueError(
                f"{name!r} cannot be merged with {base.name!r}: {odd} is {theirs.get(odd)!r} in the one and {ours.get(odd)!r} in the "
                "other, and weights are averaged number by number: merge copies of one LLM that were tuned apart, or fuse these"
            )
        if llm.surface().tokenizer.to_str() != tokens:
            raise ValueError(
                f"{name!r} cannot be merged with {base.name!r}: they cut texts into other tokens, so a row of an embedding is "
                "another token's: merge copies of one LLM that were tuned apart, or fuse these"
            )
    start = _matrices(replace(base, spec=replace(base.spec, quantization=None)))  # packed weights have no cosine
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
    """Norms and biases left out, which begin alike whatever the random numbers; in its own dtype, since a base is kept."""
    return {name: value.detach() for name, value in llm.load().named_parameters() if value.dim() > 1}


def _cosine(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    product = sum(float((ours[name].float() * theirs[name].float()).sum(dtype=torch.float64)) for name in theirs)
    sizes = [sum(float(v.float().square().sum(dtype=torch.float64)) for v in side.values()) for side in (ours, theirs)]
    return product / (sizes[0] * sizes[1]) ** 0.5
