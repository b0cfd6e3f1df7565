"""What is one experiment? Its settings, and the prepared pieces that training and evaluation put together from them."""

import gc
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import Logger
from transformers import PretrainedConfig, PreTrainedModel

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.slots import needs_own, require_slots
from knowfuse.alignment.turns import aligner
from knowfuse.evaluation import BATCH_TOKENS, ScoreTable, score_table, score_trained
from knowfuse.llms.attention import ELSEWHERE, require_attention
from knowfuse.llms.finetune import merged, require_finetune
from knowfuse.llms.isolation import Packing, length_borders
from knowfuse.llms.learnable import require_learnable
from knowfuse.llms.local import LocalLLM
from knowfuse.llms.merging import Merging
from knowfuse.llms.sharding import FSDP2
from knowfuse.losses import LmWeight, WeightSchedule, completions
from knowfuse.runs.alone import alone, require_exact
from knowfuse.runs.folder import flat, saved_settings
from knowfuse.runs.headroom import validation_headroom
from knowfuse.runs.logged import logger_of, require_uploadable
from knowfuse.runs.prepared import Prepared, prepare, prepare_target, require_here
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
from knowfuse.settings import require_choices, require_types
from knowfuse.text.corpus import Corpus, Split
from knowfuse.text.document import Document
from knowfuse.text.own import Own
from knowfuse.traces.tracing import Tracing, report_set_aside
from knowfuse.training.blocks import PackedBlocks, SourceReader
from knowfuse.training.data import FusionDataModule
from knowfuse.training.fit import Fit, best_checkpoint, fit, load_best, require_devices
from knowfuse.training.module import Fusion, FusionModule, Schedule
from knowfuse.types import Aligner, Kept, LLMSpec

METHODS = ("clm", "fused")  # the baseline and the point


@dataclass
class Experiment:
    """The settings of a run, as the root of the configuration gives them; its fields are the schema.

    Both methods train on the same documents in the same order, from the same seed; of each method the fit with the best
    checkpoint on validation is kept. With `debug: self` the target is its only source (`runs.itself`).
    """

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
        lm_weight = self._fused_lm_weight()
        require_least(vars(self))
        require_rates("learning_rates", self.learning_rates)
        if self.clm_learning_rates is not None:
            require_rates("clm_learning_rates", self.clm_learning_rates)
        require_llms(self.target, self.sources)
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
            require_exact(self.loss)
        require_groups(alignment=self.alignment, fusion=self.fusion, loss=self.loss, finetune=self.finetune)
        require_groups(optimizer=self.optimizer, logger=self.logger, trainer=self.trainer)
        require_once(self.loss, self.optimizer)
        require_finetune(self.finetune, self.target, "target")
        require_training(self.trainer, self.optimizer)
        require_answers(self.loss, self.fusion, lm_weight.start, len(self.sources))
        if self._completes_sets:
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
        return [fit_name(method, rate) for method in self.methods for rate in self._rates(method)]

    def _rates(self, method: str) -> Sequence[float]:
        return self.learning_rates if method == "fused" else self.clm_learning_rates or self.learning_rates

    @property
    def _completes_sets(self) -> bool:
        return isinstance(self.loss, partial) and self.loss.keywords.get("completion") == "set"

    def _fused_loss(self, prepared: Prepared) -> Callable[..., Any]:
        """With the bytes of the target's tokens, where it asks which of them begin with others."""
        if not self._completes_sets:
            return self.loss
        return partial(self.loss, sets=completions(prepared.target_surface.token_bytes))

    def _fused_lm_weight(self) -> LmWeight:
        return LmWeight(self.lm_weight, self.lm_weight_schedule, self.lm_weight_end)

    def text(self) -> Corpus:
        """The corpus, with the share of its fusion side that the run is to have, and what its target wrote before."""
        cache = Path(self.cache).expanduser()
        return self.own.beside(self.corpus(cache=str(cache)).with_share(self.fusion_share), cache)

    def prepare(self, corpus: Corpus | None = None) -> Prepared:
        """Corpus, LLMs and traces, made where they are missing; of another corpus than the run's where one is given."""
        return prepare(
            corpus or self.text(),
            self.target,
            self.sources,
            self.top_k,
            Path(self.cache).expanduser(),
            self.tracing,
            lambda llm: self.require_learnable(llm.config()),
            self.traces,
            self._batches if corpus is None else lambda prepared: None,
        )

    def prepare_target(self) -> Prepared:
        """The corpus and the target, without the sources."""
        return prepare_target(self.text(), self.target, self.sources, Path(self.cache).expanduser())

    def module(self, prepared: Prepared, method: str, learning_rate: float) -> FusionModule:
        """The target LLM and how it learns by this method."""
        is_fused = method == "fused"
        return FusionModule(
            prepared.target,
            fusion=self.fusion if is_fused else None,
            loss=self._fused_loss(prepared) if is_fused else self.loss,
            optimizer=partial(self.optimizer, lr=learning_rate),
            lm_weight=self._fused_lm_weight() if is_fused else LmWeight(1.0),
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            source_names=list(prepared.sources),
            build=partial(self.finetune, prepared.target),
            vocabulary_size=prepared.target_surface.usable,
            eos_id=prepared.target_surface.eos_id,
            is_chat=prepared.corpus.is_chat,
            router_loss=self.router_loss,
            activation_checkpointing=self.activation_checkpointing,
            packing=self.packing,
            domain_lm_weights=self.own.lm_weights if is_fused else {},
        )

    def data(self, prepared: Prepared, method: str) -> FusionDataModule:
        """The batches of this method; plain CLM reads no traces."""
        own = prepared.target_store() if method == "fused" and needs_own(self.alignment) else None
        readers = [
            SourceReader(source.store, aligner(self.alignment, prepared.pair(name)), own)
            for name, source in (prepared.sources.items() if method == "fused" else ())
        ]
        data = self._batches(prepared, readers)
        if method == self.methods[0]:  # all read the same
            sides: dict[str, tuple[Split, PackedBlocks]] = {
                "training": ("fusion", data.train_blocks),
                "validation": ("validation", data.validation_blocks),
            }
            for side, (split, blocks) in sides.items():
                what = f"{side} documents for blocks of {self.block_tokens}"
                report_set_aside(
                    "target", prepared.target_surface, blocks.set_aside, prepared.corpus.split(split), what
                )
        return data

    def _batches(self, prepared: Prepared, readers: Sequence[SourceReader] = ()) -> FusionDataModule:
        return FusionDataModule(
            prepared.corpus.split("fusion"),
            prepared.corpus.split("validation"),
            prepared.target_surface,
            readers,
            block_tokens=self.block_tokens,
            batch_blocks=self.batch_blocks,
            num_workers=self.num_workers,
            prefetch_batches=self.prefetch_batches,
            seed=self.seed,
            max_document_tokens=prepared.target.context_length(),
            tokens_folder=prepared.tokens_folder,
            packing=self.packing,
            length_borders=length_borders(prepared.target.config()),
        )

    def train(self, prepared: Prepared, method: str, run: Path, resume: Mapping[str, Path]) -> Fit:
        """The best of one fit per learning rate; `resume` maps names of fits to checkpoints they go on from.

        The run's saved configuration is logged as its hyperparameters.
        """
        data = self.data(prepared, method)
        fits = []
        for learning_rate in self._rates(method):
            fits.append(self._fit(prepared, method, learning_rate, data, run, resume))
            _let_go(data)
        return min(fits, key=lambda f: f.best_bits_per_byte)

    def _fit(
        self,
        prepared: Prepared,
        method: str,
        learning_rate: float,
        data: FusionDataModule,
        run: Path,
        resume: Mapping[str, Path],
    ) -> Fit:
        name = fit_name(method, learning_rate)
        L.seed_everything(self.seed, workers=True, verbose=False)
        folder = run / "fits" / name
        settings = saved_settings(run)
        loggers = partial(self._loggers, folder, {**settings, "fit": name})
        module = self.module(prepared, method, learning_rate)
        if module.lm_weight.schedule == "headroom":
            module.headroom = validation_headroom(prepared)
        trainer = deepcopy(self.trainer)  # a strategy, which it may hold, serves one Trainer
        return fit(name, folder, module, data, trainer, learning_rate, loggers, resume.get(name), flat(settings))

    def trained(self, prepared: Prepared, method: str, kept: Fit, run: Path, is_merged: bool = True) -> PreTrainedModel:
        """The target as this method's kept fit left it, whole, on the CPU; adapters merged, or beside their base."""
        module = load_best(self.module(prepared, method, kept.learning_rate), run / "fits" / kept.name, kept)
        return (merged(prepared.target, module.network) if is_merged else module.network).eval()

    def _loggers(self, folder: Path, hyperparameters: dict[str, Any]) -> list[Logger]:
        logger = logger_of(self.logger, folder)
        logger.log_hyperparams(hyperparameters)
        return [logger]

    def score(
        self,
        prepared: Prepared,
        fits: Mapping[str, Fit],
        run: Path,
        documents: Sequence[Document],
        by_class: bool = False,
    ) -> ScoreTable:
        """Bits per byte of every source, of the target before, and of the target as each method trained it.

        `by_class`: on indentation and numerals too. All ranks of the Trainer ask together, and all get the table.
        """
        before = {"target before": prepared.target_scores(documents, by_class)}
        scores = prepared.source_scores(documents, by_class) | before
        for method, kept in fits.items():
            scores[f"target {method}"] = score_trained(
                deepcopy(self.trainer),
                self.module(prepared, method, kept.learning_rate),
                best_checkpoint(run / "fits" / kept.name, kept),
                prepared.target_surface,
                documents,
                prepared.target.context_length(),
                BATCH_TOKENS,
                by_class,
            )
            _let_go()
        return score_table(scores, documents)


def _let_go(data: FusionDataModule | None = None) -> None:
    """Free the LLM that a Trainer ran, before the next is loaded beside it: Trainer, module and data hold one another."""
    if data is not None:
        data.trainer = None
    gc.collect()
