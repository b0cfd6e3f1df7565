"""What is one experiment? Its settings, and the prepared pieces that training and evaluation put together from them."""

import gc
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from transformers import PreTrainedModel

from knowfuse.alignment.slots import needs_own
from knowfuse.alignment.turns import aligner
from knowfuse.evaluation import BATCH_TOKENS, ScoreTable, score_table, score_trained
from knowfuse.llms.finetune import merged
from knowfuse.llms.isolation import length_borders
from knowfuse.losses import LmWeight, completions
from knowfuse.runs.folder import flat, saved_settings
from knowfuse.runs.headroom import validation_headroom
from knowfuse.runs.logged import logger_of
from knowfuse.runs.prepared import Prepared, prepare, prepare_target
from knowfuse.runs.refusals import fit_name
from knowfuse.runs.schema import Settings
from knowfuse.surface.set_aside import report_set_aside
from knowfuse.text.corpus import Corpus, Split
from knowfuse.text.document import Document
from knowfuse.training.blocks import PackedBlocks, SourceReader
from knowfuse.training.data import FusionDataModule
from knowfuse.training.finished import Fit, best_checkpoint
from knowfuse.training.fit import fit, load_best
from knowfuse.training.module import FusionModule
from knowfuse.training.target import TargetModule


class Experiment(Settings):
    """Both methods train on the same documents in the same order, from the same seed; of each method the fit with the best
    checkpoint on validation is kept.
    """

    def _fused_loss(self, prepared: Prepared) -> Callable[..., Any]:
        """With the bytes of the target's tokens, where it asks which of them begin with others."""
        if not self.completes_sets:
            return self.loss
        return partial(self.loss, sets=completions(prepared.target_surface.token_bytes))

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

    def target_module(self, prepared: Prepared) -> TargetModule:
        """The target LLM, for what a fit kept of it."""
        return TargetModule(
            prepared.target, partial(self.finetune, prepared.target), prepared.target_surface.usable, self.packing
        )

    def module(self, prepared: Prepared, method: str, learning_rate: float) -> FusionModule:
        """The target LLM and how it learns by this method; the sources are asked what room is left, where lambda goes by it."""
        is_fused = method == "fused"
        lm_weight = self.fused_lm_weight() if is_fused else LmWeight(1.0)
        return FusionModule(
            prepared.target,
            fusion=self.fusion if is_fused else None,
            loss=self._fused_loss(prepared) if is_fused else self.loss,
            optimizer=partial(self.optimizer, lr=learning_rate),
            lm_weight=lm_weight,
            headroom=validation_headroom(prepared) if lm_weight.schedule == "headroom" else None,
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
        for learning_rate in self.rates(method):
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
        trainer = deepcopy(self.trainer)  # a strategy, which it may hold, serves one Trainer
        return fit(name, folder, module, data, trainer, learning_rate, loggers, resume.get(name), flat(settings))

    def trained(self, prepared: Prepared, kept: Fit, run: Path, is_merged: bool = True) -> PreTrainedModel:
        """The target as a kept fit left it, whole, on the CPU; adapters merged, or beside their base."""
        module = load_best(self.target_module(prepared), run / "fits" / kept.name, kept)
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
                self.target_module(prepared),
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
