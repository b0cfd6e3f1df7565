"""Of which settings can no run be made? All that is known before anything is read, made or loaded."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from knowfuse.alignment.hybrid import hybrid
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.rank_matched import rank_matched
from knowfuse.alignment.slots import needs_own
from knowfuse.llms.sharding import FSDP2, require_shardable
from knowfuse.losses import LinearHead
from knowfuse.runs.your_own import source_name, target_file
from knowfuse.runs.your_own import spec as spec_of
from knowfuse.settings import require_choices, require_known, require_types
from knowfuse.training.module import Fusion
from knowfuse.training.trainers import require_validations
from knowfuse.types import EMPTY, AlignedSources, Aligner, LLMSpec, TopK

LEAST = {"top_k": 0, "block_tokens": 1, "batch_blocks": 1, "samples": 0}
LEAST |= {"seed": 0, "warmup_steps": 0, "weight_decay": 0, "num_workers": 0, "prefetch_batches": 1}
MOST_SEED = 2**32 - 1
BY_RANK = (rank_matched, hybrid)  # alignments whose ids are ranks, not tokens, or some of them
# Of a group, what is set at the root of the configuration instead.
ELSEWHERE = {"loss": {"lm_weight": "lm_weight"}, "optimizer": {"lr": "learning_rates", "weight_decay": "weight_decay"}}


def require_least(settings: Mapping[str, Any]) -> None:
    """ValueError for a number that is smaller than it may be."""
    for name, least in LEAST.items():
        if settings[name] < least:
            raise ValueError(f"{name} is {settings[name]}: it must be at least {least}")
    if settings["seed"] > MOST_SEED:
        raise ValueError(f"seed is {settings['seed']}: it must be at most {MOST_SEED}, NumPy takes no larger one")
    if (router_loss := settings["router_loss"]) is not None and not router_loss >= 0:
        raise ValueError(f"router_loss is {router_loss}: it must be at least 0, or null for what the LLM says")


def require_rates(name: str, rates: Any) -> None:
    """ValueError unless these are different positive numbers, in a list."""
    if not isinstance(rates, Sequence) or isinstance(rates, str) or not rates:
        raise ValueError(f"{name} is {rates}: give a list, such as {name}=[1e-5]")
    if wrong := [rate for rate in rates if type(rate) not in (int, float) or not rate > 0]:
        raise ValueError(f"{name} has {wrong[0]!r}: a learning rate is a number above 0")
    if len({fit_name("", rate) for rate in rates}) < len(rates):
        raise ValueError(f"{name} is {list(rates)}: two are the same in six digits, and would share one fit")


def fit_name(method: str, learning_rate: float) -> str:
    """What a fit is called, and its folder."""
    return f"{method}-lr{learning_rate:g}"


def require_llms(target: Any, sources: Any) -> None:
    """ValueError unless there are sources, named as folders may be, and every LLM is an LLMSpec."""
    if not sources:
        raise ValueError("sources is empty: name at least one LLM, such as sources=quickstart")
    for name, spec in {**sources, "target": target}.items():
        if not re.fullmatch(r"\w[\w.-]*", str(name)):
            raise ValueError(
                f"a source is named {name!r}: the name is a folder's, use letters, digits, '_', '.' and '-'"
            )
        if isinstance(spec, Mapping) and isinstance(spec.get(name), LLMSpec):
            raise ValueError(
                f"{name} holds another {name}: the file of conf/{name} that sets it has to begin with the line '# @package _global_'"
            )
        if not isinstance(spec, LLMSpec):
            path = spec.get("path") if isinstance(spec, Mapping) else spec
            named = str(path) if isinstance(path, str) else "<hub id or folder>"
            where = (
                f"; a target has a file, so {target_file(named)} and target={source_name(named)}"
                if name == "target"
                else ""
            )
            raise ValueError(f"LLM {name!r} is {spec!r}: give an LLMSpec, such as {spec_of(named)}{where}")


def require_pairs(target: LLMSpec, sources: Mapping[str, LLMSpec]) -> str:
    """The name of the source that is the target; ValueError where none is, or where less than two others make a pair with it."""
    pivot = next((name for name, spec in sources.items() if spec == target), None)
    if pivot is None:
        raise ValueError(
            f"pairwise fuses the target with one source after the other, and none of the sources {list(sources)} is the target: add it "
            "to sources, with the same spec, such as sources.itself=${target}"
        )
    if len(sources) < 3:
        raise ValueError(
            f"pairwise merges the targets of several pairs, and beside the target there is {len(sources) - 1} source: name at least two "
            "others, or set pairwise=null"
        )
    return pivot


def require_own(alignment: Callable[..., Any], target: LLMSpec, sources: Mapping[str, LLMSpec]) -> None:
    """ValueError where the alignment asks what the target itself said, and no source is the target."""
    if needs_own(alignment) and target not in sources.values():
        name = getattr(getattr(alignment, "func", alignment), "__name__", repr(alignment))
        raise ValueError(
            f"alignment {name!r} moves what a source says onto what the target says itself, and none of the sources {list(sources)} "
            "is the target: add it to sources, with the same spec, such as sources.itself=${target}"
        )


def require_groups(**chosen: Callable[..., Any]) -> None:
    """ValueError for a setting of these, perhaps partial, functions that they do not have, not of its type, or not among its choices."""
    for group, function in chosen.items():
        if isinstance(function, partial):
            require_known(function.func, function.keywords, group)
            require_choices(function.func, function.keywords, group)
            require_types(function.func, function.keywords, group)


def require_once(loss: Callable[..., Any], optimizer: Callable[..., Any]) -> None:
    """ValueError for what is set in a group, where a setting elsewhere would override it."""
    for group, chosen in {"loss": loss, "optimizer": optimizer}.items():
        for key, setting in ELSEWHERE[group].items():
            if isinstance(chosen, partial) and key in chosen.keywords:
                raise ValueError(f"{group}.{key} would be overridden: set {setting} instead")


def require_training(trainer: Callable[..., Any], optimizer: Callable[..., Any]) -> None:
    """ValueError for a Trainer that would not end, or not validate, and an optimizer that does not go with its shards."""
    if not isinstance(trainer, partial):
        return
    if trainer.keywords.get("max_steps") is None:
        raise ValueError(
            "trainer.max_steps is not set, and the schedules of learning rate and lm_weight are over it: set it"
        )
    require_validations(trainer.keywords)
    if isinstance(trainer.keywords.get("strategy"), FSDP2) and isinstance(optimizer, partial):
        require_shardable(optimizer.func)


def require_answers(loss: Callable[..., Any], fusion: Fusion, lm_weight: float, num_sources: int) -> None:
    """Whatever loss and fusion raise over their settings, now and not once the baseline has trained: both are called on nothing."""
    loss(*_no_rows(), lm_weight=lm_weight)
    fusion(*_no_words(num_sources))


def require_bytes(alignment: Callable[[TokenizerPair], Aligner]) -> None:
    """ValueError for an alignment whose ids are no tokens, where the loss asks for their bytes."""
    if isinstance(alignment, partial) and alignment.func in BY_RANK:
        raise ValueError(
            f"loss.completion=set needs the bytes of tokens, and alignment={alignment.func.__name__} gives ranks among the target "
            "LLM's own: set loss.completion=token, or another alignment, such as byte_exact"
        )


def _no_words(num_sources: int) -> tuple[AlignedSources, torch.Tensor, torch.Tensor]:
    """One row of which no source said anything, as a fusion rule is called with."""
    rows = torch.zeros(1, num_sources, 1)
    topk = TopK(torch.zeros(*rows.shape, 1, dtype=torch.int64), torch.full((*rows.shape, 1), EMPTY))
    number = torch.ones(1, 1, dtype=torch.int64)
    return AlignedSources(topk, rows, rows, rows, rows > 0), number, number


def _no_rows() -> tuple[torch.Tensor, LinearHead, torch.Tensor, None]:
    """Of a loss: no hidden states, a head of one token, no labels, no fused target."""
    return torch.zeros(0, 1), LinearHead(torch.zeros(1, 1)), torch.zeros(0, dtype=torch.int64), None
