"""Can an LLM learn as the settings say? Asked of its shapes, before its weights are read or a source is."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PretrainedConfig

from knowfuse.llms.finetune import ALL_LINEAR, adapted_layers
from knowfuse.llms.routers import router_weight, routers_of
from knowfuse.llms.shapes import build, shapes_only


def require_learnable(
    config: PretrainedConfig,
    name: str,
    finetune: Callable[..., Any],
    router_loss: float | None,
    trust_remote_code: bool = False,
) -> None:
    """ValueError for adapters on layers that an LLM of this configuration lacks or that take none, and for a router loss that
    transformers does not have for it.
    """
    targets = finetune.keywords.get("target_modules", ALL_LINEAR) if isinstance(finetune, partial) else ALL_LINEAR
    if targets == ALL_LINEAR and not router_weight(config.get_text_config(), router_loss):
        return  # which any LLM can do
    with shapes_only():
        model = build(config, torch.float32, None, trust_remote_code)
        adapted_layers(model, name, targets)
        try:
            routers_of(model, router_loss)
        except ValueError as error:
            raise ValueError(f"LLM {name!r}: {error}") from error
