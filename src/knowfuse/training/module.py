"""How does the target LLM learn from batches? The LightningModule; every formula is called, none is here."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Literal

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
from knowfuse.llms.finetune import finetune_of, full, what_learns
from knowfuse.llms.isolation import Packing, require_read_alone
from knowfuse.llms.local import LocalLLM
from knowfuse.llms.sharding import require_shardable
from knowfuse.losses import FusedLoss, Headroom, LmWeight, by_domain, linear_token_nll
from knowfuse.screen import say
from knowfuse.training.data import FusionDataModule
from knowfuse.training.metrics import BitsByDomain, dear_metrics, source_metrics
from knowfuse.training.target import TargetModule
from knowfuse.types import IGNORE, AlignedSources, FusedTarget, FusionBatch

LOG_SOURCES_EVERY = 20  # steps, what costs one more mixture
# Those of transformers that need nothing but the number of steps.
Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]
Fusion = Callable[[AlignedSources, Tensor, Tensor], FusedTarget]


@cache
def _say_bfloat16(name: str) -> None:
    """Once a process, however many fits of the LLM it makes."""
    say(
        f"WARNING: the weights of LLM {name!r} are trained in bfloat16, which drops steps smaller than 1/256 of a weight: set its dtype to "
        "float32 (trainer.precision=bf16-mixed computes in bfloat16 all the same), or use trainer=fsdp"
    )


class FusionModule(TargetModule):
    """A target LLM and its training: `fusion` makes one target of the sources, `loss` compares, `optimizer` moves.

    Without `fusion` it is plain causal language modelling on the same batches. `lm_weight` goes over `trainer.max_steps`, or by the
    `headroom`, without which it cannot.
    `eos_id` is the label that ends a document: it is learnt, and validation counts it apart, since the text alone decides. Of
    conversations (`is_chat`) all that takes no bytes is.
    `domain_lm_weights` are those of the rows of some domains, in place of `lm_weight`.
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
        headroom: Headroom | None = None,
    ) -> None:
        super().__init__(
            llm, build or partial(full, llm), vocabulary_size, packing, router_loss, activation_checkpointing
        )
        if lm_weight.schedule == "headroom" and headroom is None:
            raise ValueError(
                "lm_weight_schedule=headroom goes by the oracle over the sources, and none was given: give headroom="
            )
        self.fusion, self.loss, self.optimizer = fusion, loss, optimizer
        self.lm_weight, self.headroom, self.domain_lm_weights = lm_weight, headroom, domain_lm_weights
        self.schedule, self.warmup_steps, self.weight_decay = schedule, warmup_steps, weight_decay
        self.source_names = list(source_names)
        self.eos_id, self.is_chat = eos_id, is_chat
        self.tokens_seen = 0
        self.validated: float | None = None  # bits per byte of the last validation
        self.dear: dict[str, Tensor | float] = {}  # what was last seen of `dear_metrics`, logged until the next
        self.source_sums: SourceSums | None = None  # since somebody took them; of this rank
        self.validation_nats = MeanMetric()  # per byte of text
        self.validation_eos_nats = MeanMetric()  # per document that has one

    @property
    def domains(self) -> list[str]:
        """Of the data module: what the numbers in a batch's `domains` stand for; empty where it does not say."""
        return self._of_data("domains", [])

    def _of_data(self, name: str, default: Any) -> Any:
        """What the data module says by this name; the default where there is none, or it does not say."""
        return getattr(getattr(self.trainer, "datamodule", None), name, default)

    def on_fit_start(self) -> None:
        """ValueError for a target that reads documents otherwise beside others, or not all tokens of the data module."""
        require_embedded(self.network, self.llm.name, self._of_data("largest_token_id", -1))
        with self._named():
            self._require_read_alone()
        if not all(p.requires_grad for p in self.network.parameters()):
            say(f"{self.llm.name}: trains {what_learns(self.network)}")
        if isinstance(self.network, FSDPModule):
            self.network.reshard()  # to the float32 shards, which learn and into which a checkpoint is loaded after this
        if any(p.requires_grad and p.dtype == torch.bfloat16 for p in self.network.parameters()):
            _say_bfloat16(self.llm.name)

    def _require_read_alone(self) -> None:
        """At the lengths of a data module that says them."""
        assert self.head is not None
        block_tokens, longest = self._of_data("block_tokens", 64), self._of_data("longest_document", 32)
        require_read_alone(self.network, self.head, self.packing, block_tokens, longest)

    def training_step(self, batch: FusionBatch, batch_index: int) -> Tensor:
        with self.routers.recording() if self.routers else nullcontext([]) as said:
            hidden, head = self.hidden_states(batch)
        fused, resolve = None, None
        if self.fusion is not None and batch.sources is not None:
            fused = self.fusion(batch.sources, batch.document_ids, batch.label_bytes)
            resolve = resolution(batch.sources)
            sums = source_sums(batch.sources, fused, batch.labels, batch.domains, max(1, len(self.domains)))
            self.source_sums = sums if self.source_sums is None else self.source_sums + sums
            if self.global_step % LOG_SOURCES_EVERY == 0:
                self.dear = {**dear_metrics(batch, self.source_names)}
            if self._reaches_loggers:
                self.log_dict({**source_metrics(batch, fused, self.source_names), **self.dear})
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

    @property
    def _reaches_loggers(self) -> bool:
        """Whether Lightning gives loggers what this step logs: each of the figures costs it .2 ms, and the sources have dozens."""
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]  (which it is given by another part)
        return every > 0 and (self.global_step + 1) % every == 0

    def _of_step(self, labelled: Tensor) -> Tensor | int:
        """Labels of the whole step; `labelled` are those of a batch on all ranks, and that of data which tell no more."""
        data, batches = getattr(self.trainer, "datamodule", None), self.trainer.accumulate_grad_batches
        if isinstance(data, FusionDataModule):
            return data.labels_of_step(self.global_step, batches)
        return labelled * batches

    def on_validation_epoch_start(self) -> None:
        self.bits_by_domain = BitsByDomain(self._of_data("validation_domains", [""])).to(self.device)

    def validation_step(self, batch: FusionBatch, batch_index: int) -> None:
        nats = linear_token_nll(*self.hidden_states(batch), batch.labels.flatten()).view_as(batch.labels)
        is_eos = batch.labels == self.eos_id if self.eos_id is not None else torch.zeros_like(batch.labels).bool()
        if self.is_chat:
            is_eos = (batch.labels != IGNORE) & (batch.label_bytes == 0)
        num_bytes, num_eos = batch.label_bytes.sum(), is_eos.sum()
        self.validation_nats.update(nats[~is_eos].sum() / num_bytes.clamp(min=1), weight=num_bytes)
        self.bits_by_domain.update(nats.masked_fill(is_eos, 0.0), batch.label_bytes, batch.domains)
        self.validation_eos_nats.update(nats[is_eos].sum() / num_eos.clamp(min=1), weight=num_eos)

    def on_validation_epoch_end(self) -> None:
        self.validated = float(self.validation_nats.compute() / math.log(2))
        self.log("val/bits_per_byte", self.validated, prog_bar=True)
        if len(bits := self.bits_by_domain.compute()) > 1:
            self.log_dict({f"val/bits_per_byte/{domain}": its for domain, its in bits.items()})
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
