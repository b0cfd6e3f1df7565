"""How evenly does a mixture of experts use its experts? The logits of its routers, and the loss that keeps them in balance."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from knowfuse.llms.attention import reading_anywhere

LOSS = "load_balancing_loss_func"  # transformers' own, in the file of each architecture that has one


@dataclass(frozen=True)
class Routers:
    """Those of a model, and what an uneven use of their experts costs."""

    model: PreTrainedModel
    weight: float  # of `loss` beside the nats of a row
    chosen: int  # experts that a token goes to
    balance: Callable[..., Tensor]

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """What each layer's router says of the rows [N, E] that a forward pass inside reads, once it is done.

        Passes that are made outside, as the second one of a layer under activation checkpointing, are not in it.
        """
        said: list[Tensor] = []

        def ask(module: torch.nn.Module, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return arguments, {**options, "output_router_logits": True}

        def keep(module: torch.nn.Module, arguments: Any, output: Any) -> None:
            said.extend(getattr(output, "router_logits", None) or ())

        handles = [
            self.model.register_forward_pre_hook(ask, with_kwargs=True),
            self.model.register_forward_hook(keep),
        ]
        try:
            yield said
        finally:
            for handle in handles:
                handle.remove()

    def loss(self, said: list[Float[Tensor, "N E"]], is_token: Bool[Tensor, "*B T"]) -> Float[Tensor, ""]:
        """Over all layers and the rows that are tokens: E times the sum over experts of the share of choices that each got,
        times its mean probability. `chosen` where all are used alike.

        Source: Switch Transformers, arXiv 2101.03961, equations 4-6, as transformers computes it.
        """
        return self.balance(tuple(said), said[0].shape[-1], self.chosen, is_token.flatten())


def router_weight(config: PretrainedConfig, weight: float | None) -> float:
    """`weight`, or, where it is None, that of a text model's configuration: its `router_aux_loss_coef` where its
    `output_router_logits` is true, as in transformers, and else 0.
    """
    if weight is not None:
        return weight
    return float(getattr(config, "router_aux_loss_coef", 0.0)) * bool(getattr(config, "output_router_logits", False))


def routers_of(model: PreTrainedModel, weight: float | None) -> Routers | None:
    """The routers whose balance is learnt with this weight, or, where it is None, with that of the LLM's configuration.

    None for a weight of 0. ValueError for a weight above 0 and an LLM without routers, or whose routers transformers balances
    by no loss.
    """
    config = model.config.get_text_config()
    weight = router_weight(config, weight)
    if weight == 0:
        return None
    balance, chosen = (
        getattr(sys.modules[type(model).__module__], LOSS, None),
        getattr(config, "num_experts_per_tok", None),
    )
    if balance is not None and isinstance(chosen, int):
        routers = Routers(model, weight, chosen, balance)
        with torch.no_grad(), reading_anywhere(model), routers.recording() as said:
            model(input_ids=torch.arange(4, device=model.device)[None], use_cache=False)
        if said and all(len(logits) == 4 for logits in said):
            return routers
    raise ValueError(
        f"router_loss is {weight:g}, and transformers has no loss that balances experts for {type(model).__name__} as it is "
        "configured: leave router_loss out, or set it to 0"
    )
