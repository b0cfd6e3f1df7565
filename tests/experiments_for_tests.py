"""Whole experiments in miniature: real documents, tokenizers, LLMs and traces, and the real configuration made small."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from commands_for_tests import ROOT as ROOT
from commands_for_tests import run_python as run_python
from hydra import compose, initialize_config_dir
from models_for_tests import tiny_llm
from omegaconf import DictConfig
from settings_for_tests import read_settings_once
from tokenizers_for_tests import llama, neox, random_trace, surface
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.fusion.min_ce import min_ce
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.losses import LmWeight, fused_linear_loss
from knowfuse.text.document import Document, Split, cut
from knowfuse.text.documents import Documents
from knowfuse.traces.manifest import TraceKey
from knowfuse.traces.store import TraceStore
from knowfuse.traces.tracing import Tracing
from knowfuse.training.blocks import SourceReader
from knowfuse.training.data import FusionDataModule
from knowfuse.training.module import FusionModule
from knowfuse.types import Aligner, LLMSpec, SourceTrace

SOURCES = ("llama2", "mpt", "openllama")
TRACING = Tracing(
    place=None, verify="when_read", batch_tokens=8192, shard_tokens=1_000_000, compile=False, server_requests=4
)
# `python train.py` with these is the whole of the quickstart in seconds; each source has a vocabulary of its own size.
TINY = [
    "corpus.max_document_bytes=120",
    "corpus.bytes_per_domain=60000",
    "corpus.fusion_bytes=3000",
    "corpus.validation_bytes=1500",
    "corpus.test_bytes=1500",
    "top_k=10",
    *(
        f"sources.{name}.recipe.{key}={value}"
        for name, vocabulary in zip(SOURCES, (400, 420, 440), strict=True)
        for key, value in {
            "vocabulary_size": vocabulary,
            "hidden_size": 32,
            "num_layers": 1,
            "context_length": 160,
            "max_steps": 3,
        }.items()
    ),
]
# What training adds to what preparing reads.
TINY_TRAINING = [
    *TINY,
    "block_tokens=128",
    "batch_blocks=2",
    "learning_rates=[2e-3]",
    "clm_learning_rates=null",
    "lm_weight=0.3",
    "warmup_steps=1",
    "trainer.max_steps=8",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
]


def composed(name: str, *overrides: str, **more: Any) -> DictConfig:
    """The configuration `conf/<name>.yaml` as Hydra composes it."""
    read_settings_once()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose(name, list(overrides), **more)


def documents(number: int, split: Split = "fusion", max_bytes: int = 90, domain: str = "code") -> list[Document]:
    """Distinct pieces of the standard library's source; those of `validation` are not those of `fusion`."""
    pieces = cut(Path(textwrap.__file__).read_text(encoding="utf-8"), max_bytes)
    chosen = pieces[:number] if split == "fusion" else pieces[-number:]
    return [Document(piece, domain, split, is_complete=n % 3 > 0) for n, piece in enumerate(chosen)]


def local_llm(folder: Path, architecture: str = "llama", seed: int = 0, width: int = 32, **spec: Any) -> LocalLLM:
    """A tiny LLM with random weights and its own tokenizer, saved as a folder of transformers."""
    tokenizer = neox() if architecture == "mpt" else llama()
    tiny_llm(architecture, len(tokenizer), seed=seed, width=width).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return localize(folder.name, LLMSpec(path=str(folder), **spec))


def trace_store(folder: Path, family: str, texts: Sequence[Document], name: str = "", peak: float = 6.0) -> TraceStore:
    """What an LLM with random logits, mostly right about the next token, said about these documents."""
    store = TraceStore(folder, TraceKey(name or family, "random", family, top_k=8))
    missing = store.missing(Documents.of(texts).ids)
    store.write(
        {d.id: _random_trace(family, d.text, n, d.is_complete, peak) for n, d in enumerate(texts) if missing[n]}
    )
    return store


@cache  # many tests train on the same documents
def _random_trace(family: str, text: str, seed: int, is_complete: bool, peak: float) -> SourceTrace:
    return random_trace(surface(family), text, 8, seed=seed, is_complete=is_complete, peak=peak)


def readers(
    folder: Path, texts: Sequence[Document], families: Sequence[str] = ("neox", "unigram")
) -> list[SourceReader]:
    """One source per tokenizer family, aligned with the Llama-2-like target."""
    return [SourceReader(trace_store(folder / family, family, texts), _aligner(family)) for family in families]


@cache
def _aligner(family: str) -> Aligner:
    return byte_exact(TokenizerPair(surface(family), surface("llama")))


def data_module(sources: Sequence[SourceReader] = (), number: int = 30, **options: Any) -> FusionDataModule:
    """Documents in the tokens of the Llama-2-like target, three blocks of 96 in a batch."""
    options = {"block_tokens": 96, "batch_blocks": 3, "seed": 1, **options}
    return FusionDataModule(documents(number), documents(8, "validation"), surface("llama"), sources, **options)


def fusion_module(llm: LocalLLM, is_fused: bool = True, **options: Any) -> FusionModule:
    """A target that learns by MinCE, or by plain CLM."""
    return FusionModule(
        llm,
        fusion=min_ce if is_fused else None,
        loss=fused_linear_loss,
        optimizer=partial(torch.optim.AdamW, lr=options.pop("learning_rate", 2e-3)),
        **{
            "lm_weight": LmWeight(0.3 if is_fused else 1.0),
            "weight_decay": 0.1,
            "warmup_steps": 2,
            "source_names": ("neox", "unigram"),
            "eos_id": surface("llama").eos_id,
            **options,
        },
    )


def trainer(max_steps: int = 12, also: Sequence[L.Callback] = (), **options: Any) -> Any:
    """What `fit` makes its Trainer with; `also` are callbacks beside its own."""

    def make(callbacks: Sequence[L.Callback] = (), **given: Any) -> L.Trainer:
        settings = {"accelerator": "cpu", "devices": 1, "gradient_clip_val": 1.0, "check_val_every_n_epoch": None}
        settings |= {"max_steps": max_steps, "val_check_interval": 2, "log_every_n_steps": 4}
        return L.Trainer(**{**settings, **options, **given}, callbacks=[*callbacks, *also])

    return make


class PowerCut(L.Callback):
    """The machine stops after so many steps; which of `error` it looks like is the caller's."""

    def __init__(self, steps: int, error: type[BaseException] = RuntimeError) -> None:
        self.steps, self.error = steps, error

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps:
            raise self.error("the power is cut")


@contextmanager
def started_by_torchrun(rank: int, world: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHELASTIC_RUN_ID", "a job")
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", world)):
            patch.setenv(name, str(value))
        yield


@contextmanager
def forward_passes(stop: int | None = None) -> Iterator[list[PreTrainedModel]]:
    """The bodies of the LLMs of the forward passes in this process; the power is cut before pass number `stop`."""
    seen: list[PreTrainedModel] = []

    def watch(module: torch.nn.Module, _: Any) -> None:
        if isinstance(module, PreTrainedModel) and module.base_model is module:
            if len(seen) == stop:
                raise KeyboardInterrupt
            seen.append(module)

    handle = register_module_forward_pre_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()
