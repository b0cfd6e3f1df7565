"""What can be said of a run, and what of it is refused before anything is made?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import Logger
from transformers import PretrainedConfig, PreTrainedModel

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.slots import require_slots
from knowfuse.llms.attention import ELSEWHERE, require_attention
from knowfuse.llms.finetune import require_finetune
from knowfuse.llms.isolation import Packing
from knowfuse.llms.learnable import require_learnable
from knowfuse.llms.local import LocalLLM
from knowfuse.llms.merging import Merging
from knowfuse.llms.sharding import FSDP2
from knowfuse.losses import LmWeight, WeightSchedule
from knowfuse.runs.alone import alone, require_exact
from knowfuse.runs.logged import require_uploadable
from knowfuse.runs.prepared import require_here
from knowfuse.runs.refusals import (
    fit_name,
    require_answers,
    require_bytes,
    require_groups,
    require_least,
    require_llms,
    require_once,
    require_own,
    require_pairs,
    require_rates,
    require_training,
)
from knowfuse.runs.unbiased import require_drawable, require_unbiased
from knowfuse.settings import require_choices, require_made, require_types
from knowfuse.text.corpus import Corpus
from knowfuse.text.own import Own
from knowfuse.traces.tracing import Tracing
from knowfuse.training.module import Fusion, Schedule
from knowfuse.training.trainers import require_devices
from knowfuse.types import Aligner, Kept, LLMSpec

METHODS = ("clm", "fused")  # the baseline and the point


@dataclass
class Settings:
    """As the root of the configuration gives them; the fields are its schema. With `debug: self` the target is its only source."""

    name: str
    seed: int
    cache: str  # folder of corpora, recipes, traces and scores, shared by all runs
    ckpt_path: str | None  # null | last | the path of a checkpoint; auto is one of these by now
    target: LLMSpec
    sources: Mapping[str, LLMSpec]
    tracing: Tracing
    corpus: Callable[..., Corpus]
    alignment: Callable[[TokenizerPair], Aligner]
    fusion: Fusion
    loss: Callable[..., Any]
    finetune: Callable[[LocalLLM], PreTrainedModel]
    optimizer: Callable[..., Any]
    trainer: Callable[..., L.Trainer]
    logger: Callable[..., Logger]
    top_k: int
    lm_weight: float
    lm_weight_schedule: WeightSchedule
    lm_weight_end: float | None  # at the last step, or at the oracle; None: there is no schedule, or 1
    learning_rates: Sequence[float]
    clm_learning_rates: Sequence[float] | None  # of plain CLM; None: the same
    schedule: Schedule
    warmup_steps: int
    weight_decay: float
    router_loss: float | None  # weight of the balance of experts; None: the LLM's configuration says
    activation_checkpointing: bool
    block_tokens: int
    batch_blocks: int
    packing: Packing
    num_workers: int
    prefetch_batches: int  # per worker
    compare_with_clm: bool
    compare_with_direct: bool = True  # where targets of pairs are merged; the runs of before had no pairs
    pairwise: Merging | None = None  # how they are merged; None: all sources are fused at once
    debug: Literal["self"] | None = None  # the runs of before had none
    fusion_share: float = 1.0  # of the fusion text; nor this
    samples: int = 0  # documents of each kind that are kept with their text; the runs of before kept none
    traces: Kept = "topk"  # nor this
    own: Own = field(default_factory=Own)  # nor this

    def __post_init__(self) -> None:
        require_types(type(self), vars(self))
        require_choices(type(self), vars(self))
        lm_weight = self.fused_lm_weight()
        require_least(vars(self))
        require_rates("learning_rates", self.learning_rates)
        if self.clm_learning_rates is not None:
            require_rates("clm_learning_rates", self.clm_learning_rates)
        require_llms(self.target, self.sources)
        require_made(type(self), vars(self))
        require_here(self.target)
        require_slots(self.alignment, self.top_k)
        require_own(self.alignment, self.target, {"itself": self.target} if self.debug == "self" else self.sources)
        require_drawable(self.traces, self.top_k, self.sources)
        if self.pairwise is not None and self.debug is None:
            require_pairs(self.target, self.sources)
        if self.traces == "sampled":
            require_unbiased(self.alignment, self.loss, self.debug)
        if self.debug == "self":
            its_own = next((name for name, spec in self.sources.items() if spec == self.target), "itself")
            self.sources = {its_own: self.target}
            self.fusion = alone(self.fusion, its_own)
            self.lm_weight_schedule, self.lm_weight_end = "constant", None  # nothing is trained
            require_exact(self.loss)
        require_groups(alignment=self.alignment, fusion=self.fusion, loss=self.loss, finetune=self.finetune)
        require_groups(optimizer=self.optimizer, logger=self.logger, trainer=self.trainer)
        require_once(self.loss, self.optimizer)
        require_finetune(self.finetune, self.target, "target")
        require_training(self.trainer, self.optimizer)
        require_answers(self.loss, self.fusion, lm_weight.start, len(self.sources))
        if self.completes_sets:
            require_bytes(self.alignment)

    def require_machine(self) -> None:
        """ValueError where this machine lacks what the Trainer asks for, or rules out by which kernel an LLM is to attend.

        So where the logger is to upload checkpoints that it cannot.
        """
        require_devices(self.trainer)
        trainer = self.trainer.keywords if isinstance(self.trainer, partial) else {}
        strategy = trainer.get("strategy")
        require_uploadable(self.logger, isinstance(strategy, FSDP2) and strategy.writes_shards)
        self.require_attention("cpu" if trainer.get("accelerator") == "cpu" else None)

    def require_attention(self, device: str | None) -> None:
        """ValueError for a kernel by which an LLM cannot attend: the target on this device, sources on the best of its machine."""
        strategy = self.trainer.keywords.get("strategy") if isinstance(self.trainer, partial) else None
        gathered = strategy.compute_dtype if isinstance(strategy, FSDP2) else None
        require_attention("target", self.target, is_trained=True, device=device, gathered=gathered)
        for name, spec in self.sources.items():
            require_attention(name, spec, device=ELSEWHERE if device == ELSEWHERE else None)

    def require_learnable(self, target: PretrainedConfig) -> None:
        """ValueError where a target of this configuration cannot learn as the settings say."""
        require_learnable(target, "target", self.finetune, self.router_loss, self.target.trust_remote_code)

    @property
    def methods(self) -> tuple[str, ...]:
        return METHODS if self.compare_with_clm else METHODS[1:]

    @property
    def fit_names(self) -> list[str]:
        return [fit_name(method, rate) for method in self.methods for rate in self.rates(method)]

    def rates(self, method: str) -> Sequence[float]:
        return self.learning_rates if method == "fused" else self.clm_learning_rates or self.learning_rates

    @property
    def completes_sets(self) -> bool:
        return isinstance(self.loss, partial) and self.loss.keywords.get("completion") == "set"

    def fused_lm_weight(self) -> LmWeight:
        return LmWeight(self.lm_weight, self.lm_weight_schedule, self.lm_weight_end)
