"""How does the target LLM learn from batches? The LightningModule; every formula is called, none is here."""

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from knowfuse.alignment.hybrid import resolution
from knowfuse.fusion.shares import SourceSums, source_sums
from knowfuse.llms.checks import require_embedded
from knowfuse.llms.finetune import adapters, finetune_of, full, what_learns
from knowfuse.llms.head import OutputHead, RowLogits, hidden_states, output_head, packed_hidden_states
from knowfuse.llms.isolation import Packing, require_read_alone
from knowfuse.llms.local import LocalLLM, checkpoint_activations
from knowfuse.llms.routers import Routers, routers_of
from knowfuse.llms.sharding import FSDP2, require_shardable, shard
from knowfuse.losses import FusedLoss, Headroom, LinearHead, LmWeight, by_domain, linear_token_nll
from knowfuse.progress import say
from knowfuse.training.data import FusionDataModule
from knowfuse.training.metrics import dear_metrics, source_metrics
from knowfuse.types import IGNORE, AlignedSources, FusedTarget, FusionBatch

LOG_SOURCES_EVERY = 20  # steps, what costs one more mixture
# Those of transformers that need nothing but the number of steps.
Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]
Fusion = Callable[[AlignedSources, Tensor, Tensor], FusedTarget]


class FusionModule(L.LightningModule):
    """A target LLM and its training: `fusion` makes one target of the sources, `loss` compares, `optimizer` moves.

    Without `fusion` it is plain causal language modelling on the same batches. `lm_weight` goes over `trainer.max_steps`, or by the
    `headroom` that is set before training. `llm` is loaded in `configure_model`,
    so that a strategy may shard it, by `build`: in full, with adapters, or from nothing. Beside adapters the rest of the LLM is
    no part of `state_dict`, nor so of a checkpoint. `vocabulary_size` is the tokenizer's: what the LLM has beyond it is padding.
    `eos_id` is the label that ends a document: it is learnt, and validation counts it apart, since the text alone decides. Of
    conversations (`is_chat`) all that takes no bytes is.
    `packing` is that of the batches: `blocks` of documents one after another, or `one_document` a row.
    `router_loss` is the weight of what an uneven use of the experts of a mixture costs, of the tokens of a batch; None: what the
    LLM's configuration says.
    `domain_lm_weights` are those of the rows of some domains, in place of `lm_weight`.
    With `activation_checkpointing` each decoder layer runs a second time in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        llm: LocalLLM,
        fusion: Fusion | None,
        loss: Callable[..., FusedLoss],
        optimizer: Callable[..., Optimizer],
        lm_weight: LmWeight,
        schedule: Schedule = "cosine",
        warmup_steps: int = 0,
        weight_decay: float = 0.0,
        source_names: Iterable[str] = (),
        build: Callable[[], PreTrainedModel] | None = None,
        vocabulary_size: int = sys.maxsize,
        eos_id: int | None = None,
        is_chat: bool = False,
        activation_checkpointing: bool = False,
        packing: Packing = "blocks",
        router_loss: float | None = None,
        domain_lm_weights: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.llm, self.fusion, self.loss, self.optimizer, self.lm_weight = llm, fusion, loss, optimizer, lm_weight
        self.schedule, self.warmup_steps, self.weight_decay = schedule, warmup_steps, weight_decay
        self.source_names = list(source_names)
        self.build = build or partial(full, llm)
        self.vocabulary_size, self.eos_id, self.is_chat = vocabulary_size, eos_id, is_chat
        self.activation_checkpointing = activation_checkpointing
        self.packing: Packing = packing
        self.router_loss, self.domain_lm_weights = router_loss, domain_lm_weights
        self.routers: Routers | None = None
        self.model: PreTrainedModel | None = None
        self.head: OutputHead | None = None
        self.tokens_seen = 0
        self.headroom: Headroom | None = None  # of a fit whose lm_weight goes by it
        self.validated: float | None = None  # bits per byte of the last validation
        self.dear: dict[str, Tensor | float] = {}  # what was last seen of `dear_metrics`, logged until the next
        self.source_sums: SourceSums | None = None  # since somebody took them; of this rank
        self.validation_nats = MeanMetric()  # per byte of text
        self.validation_eos_nats = MeanMetric()  # per document that has one

    @property
    def network(self) -> PreTrainedModel:
        """The target LLM, once `configure_model` has built it."""
        assert self.model is not None
        return self.model

    @property
    def domains(self) -> list[str]:
        """Of the data module: what the numbers in a batch's `domains` stand for; empty where it does not say."""
        return getattr(getattr(self.trainer, "datamodule", None), "domains", [])

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

    def on_fit_start(self) -> None:
        """ValueError for a target that reads documents otherwise beside others, or not all tokens of the data module."""
        largest = getattr(getattr(self.trainer, "datamodule", None), "largest_token_id", -1)
        require_embedded(self.network, self.llm.name, largest)
        with self._named():
            self._require_read_alone()
        if not all(p.requires_grad for p in self.network.parameters()):
            say(f"{self.llm.name}: trains {what_learns(self.network)}")
        if isinstance(self.network, FSDPModule):
            self.network.reshard()  # to the float32 shards, which learn and into which a checkpoint is loaded after this
        if any(p.requires_grad and p.dtype == torch.bfloat16 for p in self.network.parameters()):
            warnings.warn(
                f"the weights of LLM {self.llm.name!r} are trained in bfloat16, which drops steps smaller than 1/256 of a weight: "
                "set its dtype to float32 (trainer.precision=bf16-mixed computes in bfloat16 all the same), or use trainer=fsdp",
                stacklevel=2,
            )

    def _require_read_alone(self) -> None:
        """At the lengths of a data module that says them."""
        assert self.head is not None
        data = getattr(self.trainer, "datamodule", None)
        block_tokens, longest = getattr(data, "block_tokens", 64), getattr(data, "longest_document", 32)
        require_read_alone(self.network, self.head, self.packing, block_tokens, longest)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"LLM {self.llm.name!r}: {error}") from error

    def training_step(self, batch: FusionBatch, batch_index: int) -> Tensor:
        with self.routers.recording() if self.routers else nullcontext([]) as said:
            hidden, head = self.hidden_states(batch)
        fused, resolve = None, None
        if self.fusion is not None and batch.sources is not None:
            fused = self.fusion(batch.sources, batch.document_ids, batch.label_bytes)
            resolve = resolution(batch.sources)
            self.log_dict(source_metrics(batch, fused, self.source_names))
            sums = source_sums(batch.sources, fused, batch.labels, batch.domains, max(1, len(self.domains)))
            self.source_sums = sums if self.source_sums is None else self.source_sums + sums
            if self.global_step % LOG_SOURCES_EVERY == 0:
                self.dear = {**dear_metrics(batch, self.source_names)}
            self.log_dict(self.dear)
        left = None if self.headroom is None else self.headroom.left(self.validated)
        lm_weight = self.lm_weight.at(self.global_step, self.trainer.max_steps, left)
        weights = by_domain(lm_weight, self.domain_lm_weights, self.domains, batch.domains)
        loss = self.loss(hidden, head, batch.labels.flatten(), fused, lm_weight=weights, resolve=resolve)
        if not bool(torch.isfinite(loss.total)):
            raise ValueError(
                f"the loss of batch {batch_index} (step {self.global_step}) is {loss.total.item()} "
                f"(CLM {loss.clm.item():.4g}, KL {loss.kl.item():.4g}): nothing was updated; lower the learning rate"
            )
        labelled = (batch.labels != IGNORE).sum()
        on_all_ranks = self.trainer.strategy.reduce(labelled.clone(), reduce_op="sum")
        self.tokens_seen += int(on_all_ranks)
        self.log("train/loss_nats", loss.total, prog_bar=True)
        self.log_dict(loss.metrics())
        self.log("train/lm_weight", lm_weight)
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("train/tokens", float(self.tokens_seen))
        total = loss.total
        if self.routers is not None:
            uneven = self.routers.loss(said, batch.document_ids > 0)
            self.log("train/router_loss", uneven)
            total = total + self.routers.weight * uneven
        # Gradients are averaged over the ranks and the batches of a step: each weighs by its labels, so that all are one batch.
        return total * (
            labelled * self.trainer.world_size * self.trainer.accumulate_grad_batches / self._of_step(on_all_ranks)
        )

    def _of_step(self, labelled: Tensor) -> Tensor | int:
        """Labels of the whole step; `labelled` are those of a batch on all ranks, and that of data which tell no more."""
        data, batches = getattr(self.trainer, "datamodule", None), self.trainer.accumulate_grad_batches
        if isinstance(data, FusionDataModule):
            return data.labels_of_step(self.global_step, batches)
        return labelled * batches

    def hidden_states(self, batch: FusionBatch) -> tuple[Tensor, LinearHead]:
        """[B * T, H], and the head that was whole for them."""
        assert self.head is not None
        if self.packing == "one_document":
            hidden = hidden_states(self.network, self.head, batch.input_ids)
        else:
            rows = (batch.input_ids, batch.position_ids, batch.document_ids)
            hidden = packed_hidden_states(self.network, self.head, *rows)
        return hidden.flatten(0, 1), self.head.linear()

    def validation_step(self, batch: FusionBatch, batch_index: int) -> None:
        nats = linear_token_nll(*self.hidden_states(batch), batch.labels.flatten()).view_as(batch.labels)
        is_eos = batch.labels == self.eos_id if self.eos_id is not None else torch.zeros_like(batch.labels).bool()
        if self.is_chat:
            is_eos = (batch.labels != IGNORE) & (batch.label_bytes == 0)
        num_bytes, num_eos = batch.label_bytes.sum(), is_eos.sum()
        self.validation_nats.update(nats[~is_eos].sum() / num_bytes.clamp(min=1), weight=num_bytes)
        self.validation_eos_nats.update(nats[is_eos].sum() / num_eos.clamp(min=1), weight=num_eos)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Nats of each label [B, T] of documents that stand in rows, one in each; 0 where there is none."""
        return RowLogits(self.network, self.head).label_nll(*batch)

    def on_validation_epoch_end(self) -> None:
        self.validated = float(self.validation_nats.compute() / math.log(2))
        self.log("val/bits_per_byte", self.validated, prog_bar=True)
        if bool(torch.isfinite(eos_nats := self.validation_eos_nats.compute())):  # NaN where no document has one
            self.log("val/eos_nats", eos_nats)
        self.log("val/tokens", float(self.tokens_seen))
        self.validation_nats.reset()
        self.validation_eos_nats.reset()

    def configure_optimizers(self) -> Any:
        """Weight decay on matrices only; a schedule of transformers over `trainer.max_steps`, stepped every step."""
        if self.trainer.max_steps < 0:
            raise ValueError("the learning-rate schedule is over trainer.max_steps, which is not set: set it")
        matrices = [p for p in self.parameters() if p.requires_grad and p.ndim >= 2]
        others = [p for p in self.parameters() if p.requires_grad and p.ndim < 2]
        optimizer = self.optimizer(
            [{"params": matrices, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        )
        if isinstance(self.network, FSDPModule):
            require_shardable(type(optimizer))
        from transformers import get_scheduler  # here: it imports peft, and that bitsandbytes, which take two seconds

        scheduler = get_scheduler(self.schedule, optimizer, self.warmup_steps, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """The gradients go at once: Lightning would keep them through the next forward pass, beside its activations."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By global norm, sharded or not: torch's own function knows DTensors. None or 0: not at all."""
        if gradient_clip_algorithm not in (None, "norm"):
            raise ValueError(
                f"trainer.gradient_clip_algorithm is {gradient_clip_algorithm.lower()!r}, but gradients are clipped by their "
                "global norm alone: set it to norm, or leave it out"
            )
        if not gradient_clip_val:
            return
        if not gradient_clip_val > 0:
            raise ValueError(
                f"trainer.gradient_clip_val is {gradient_clip_val}: it must be the largest norm that a gradient may have, "
                "or 0 for no clipping"
            )
        norm = nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        self.log("train/gradient_norm", norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["knowfuse"] = {
            "target": self.llm.fingerprint,
            "name": self.llm.name,
            "finetune": finetune_of(self.network),
            "tokens_seen": self.tokens_seen,
            "validated": self.validated,
            "dear": {name: float(value) for name, value in self.dear.items()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """ValueError for a checkpoint of another target or of other trained parameters, naming both."""
        saved = checkpoint.get("knowfuse", {"target": "none", "name": "a run that is not knowfuse's"})
        if saved["target"] != self.llm.fingerprint:
            raise ValueError(
                f"the checkpoint is of target {saved['name']!r} ({saved['target'][:12]}), this run's target is "
                f"{self.llm.name!r} ({self.llm.fingerprint[:12]}): set target= to it, or another ckpt_path"
            )
        theirs, mine = saved.get("finetune", "finetune=full"), finetune_of(self.network)
        if theirs != mine:
            raise ValueError(
                f"the checkpoint is of a run with {theirs}, this run has {mine}: set {theirs}, or give another ckpt_path"
            )
        self.tokens_seen = saved["tokens_seen"]
        self.validated = saved.get("validated")  # the checkpoints of before had none
        self.dear = saved.get("dear", {})  # nor these
