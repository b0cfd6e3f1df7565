"""How is a target LLM held while it is trained, scored and saved? Built where it will run, in shards or whole."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
from torch import Tensor
from transformers import PreTrainedModel

from knowfuse.llms.finetune import adapters, finetune_of
from knowfuse.llms.head import OutputHead, RowLogits, hidden_states, output_head, packed_hidden_states
from knowfuse.llms.isolation import Packing
from knowfuse.llms.local import LocalLLM, checkpoint_activations
from knowfuse.llms.routers import Routers, routers_of
from knowfuse.llms.sharding import FSDP2, shard
from knowfuse.losses import LinearHead
from knowfuse.types import FusionBatch


class TargetModule(L.LightningModule):
    """A target LLM. `llm` is loaded in `configure_model`, so that a strategy may shard it, by `build`: in full, with adapters, or from
    nothing. Beside adapters the rest of the LLM is no part of `state_dict`, nor so of a checkpoint. `vocabulary_size` is the tokenizer's:
    what the LLM has beyond it is padding. `packing` is that of the batches: `blocks` of documents one after another, or `one_document`
    a row.
    `router_loss` is the weight of what an uneven use of the experts of a mixture costs, of the tokens of a batch; None: what the
    LLM's configuration says.
    With `activation_checkpointing` each decoder layer runs a second time in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        llm: LocalLLM,
        build: Callable[[], PreTrainedModel],
        vocabulary_size: int = sys.maxsize,
        packing: Packing = "blocks",
        router_loss: float | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.llm, self.build, self.vocabulary_size = llm, build, vocabulary_size
        self.packing: Packing = packing
        self.router_loss, self.activation_checkpointing = router_loss, activation_checkpointing
        self.routers: Routers | None = None
        self.model: PreTrainedModel | None = None
        self.head: OutputHead | None = None

    @property
    def network(self) -> PreTrainedModel:
        """The target LLM, once `configure_model` has built it."""
        assert self.model is not None
        return self.model

    def configure_model(self) -> None:
        if self.model is None:
            self.model = self.build().train()
            with self._named():
                self.head = output_head(self.model, self.vocabulary_size)
                self.routers = routers_of(self.model, self.router_loss)
                if self.activation_checkpointing:
                    checkpoint_activations(self.model)
                if (mesh := self.device_mesh) is not None:
                    if not isinstance(strategy := self.trainer.strategy, FSDP2):
                        raise ValueError(
                            f"trainer.strategy is Lightning's {type(strategy).__name__}: use knowfuse.llms.sharding.FSDP2, as "
                            "trainer=fsdp does"
                        )
                    shard(self.model, mesh["data_parallel"], strategy.compute_dtype)

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """All weights of an LLM that is trained in full; beside adapters, theirs alone."""
        state = super().state_dict(*arguments, **options)
        if self.model is None or not adapters(self.model):
            return state
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in state.items() if name in trained}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """The inverse of `state_dict`; ValueError for weights that are not those of this module's adapters."""
        if self.model is None or not adapters(self.model):
            return super().load_state_dict(state_dict, strict, assign)
        self.require_weights(state_dict.keys())
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def require_weights(self, names: Iterable[str]) -> None:
        """ValueError unless these are the names of `state_dict`."""
        if other := sorted(set(names) ^ self.state_dict().keys()):
            raise ValueError(
                f"these weights are not those that {finetune_of(self.network)} trains: {len(other)} are on one side only, the "
                f"first {other[0]!r}; give the checkpoint of a run with these settings"
            )

    def hidden_states(self, batch: FusionBatch) -> tuple[Tensor, LinearHead]:
        """[B * T, H], and the head that was whole for them."""
        assert self.head is not None
        if self.packing == "one_document":
            hidden = hidden_states(self.network, self.head, batch.input_ids)
        else:
            rows = (batch.input_ids, batch.position_ids, batch.document_ids)
            hidden = packed_hidden_states(self.network, self.head, *rows)
        return hidden.flatten(0, 1), self.head.linear()

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Nats of each label [B, T] of documents that stand in rows, one in each; 0 where there is none."""
        return RowLogits(self.network, self.head).label_nll(*batch)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"LLM {self.llm.name!r}: {error}") from error
