"""What does learning from the sources cost beside plain CLM, a whole training step, and does it ever wait for data?

    python benchmarks/step.py

A 33M-parameter Llama (384 wide, 8 layers, SmolLM2's 49,152 rows of vocabulary) trains through the Lightning Trainer: blocks
of 1,024 tokens, the traces of three sources read from disk (K = 10), aligned by `byte_exact`, fused by MinCE, AdamW, clipped
gradients. Beside it, in turns in the same process, the same LLM in the same Trainer on the same blocks by plain CLM, once
with our loss and once with the LLM's own (`labels=`); the ratio is over the faster of the two. A step is from batch to
batch, so that waiting for data is in it; what is waited is Lightning's time for the next batch. The traces are random.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import Profiler
from loader import FAMILIES, library_documents, reader, surfaces
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from knowfuse.fusion.min_ce import min_ce
from knowfuse.llms.local import LocalLLM
from knowfuse.llms.packed import read_packed
from knowfuse.losses import LmWeight, fused_linear_loss
from knowfuse.screen import quiet_libraries
from knowfuse.training.data import FusionDataModule
from knowfuse.training.module import FusionModule
from knowfuse.types import FusionBatch, LLMSpec

FETCH = "train_dataloader_next"  # what Lightning's profiler calls the time for the next batch


def llama(width: int, vocabulary: int) -> LlamaForCausalLM:
    """Eight layers, random weights."""
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 8 * width // 3, "num_hidden_layers": 8}
    shape |= {"num_attention_heads": width // 64}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **shape))


class OwnLoss(FusionModule):
    """The same LLM by the loss of transformers."""

    def training_step(self, batch: FusionBatch, batch_index: int) -> Tensor:
        # `shift_labels` of transformers are labels that are shifted already, as ours are.
        labels = batch.labels.reshape(1, -1)

        def loss(**inputs: Any) -> Tensor:
            return self.network(**inputs, labels=labels, shift_labels=labels).loss[None]

        return read_packed(self.network, loss, batch.input_ids, batch.position_ids, batch.document_ids)


def module(
    kind: type[FusionModule], is_fused: bool, build: Callable[[], LlamaForCausalLM], vocabulary_size: int
) -> FusionModule:
    """The LLM, and how it learns: from the sources, or by plain CLM."""
    return kind(
        LocalLLM("llama", LLMSpec(path="."), "random"),
        fusion=min_ce if is_fused else None,
        loss=fused_linear_loss,
        optimizer=partial(torch.optim.AdamW, lr=1e-4, fused=True),
        lm_weight=LmWeight(0.9 if is_fused else 1.0),
        source_names=FAMILIES if is_fused else (),
        build=build,
        vocabulary_size=vocabulary_size,
    )


class Steps(L.Callback):
    """Seconds from the start of each batch to the start of the next."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [after - before for before, after in zip(self.starts[1:], self.starts[2:], strict=False)]


class Waits(Profiler):
    """Seconds that Lightning waited for each training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.began = 0.0

    def start(self, action_name: str) -> None:
        if FETCH in action_name:
            self.began = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if FETCH in action_name:
            self.seconds.append(time.perf_counter() - self.began)


def trained(module: FusionModule, data: FusionDataModule, steps: int) -> tuple[list[float], float]:
    """The seconds of each step after the first, and those that were waited for their batches."""
    watch, waits = Steps(), Waits()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps + 2,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        profiler=waits,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return watch.seconds, sum(waits.seconds[2 : steps + 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="of each in one round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0, help="that align beside the training")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--texts", type=int, default=150, help="files of the standard library to read")
    arguments = parser.parse_args()
    quiet_libraries()

    documents, texts = library_documents(arguments.texts)
    by_family = surfaces(texts)
    target = by_family[FAMILIES[0]]
    build = partial(llama, arguments.width, arguments.vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        sources = [reader(by_family[f], target, documents, Path(folder)) for f in FAMILIES]
        spent: dict[str, list[float]] = {"fused": [], "CLM": [], "CLM, loss of transformers": []}
        waited = dict.fromkeys(spent, 0.0)
        for _ in range(arguments.rounds):
            for name in spent:
                is_fused = name == "fused"
                data = FusionDataModule(
                    documents,
                    documents[:4],
                    target,
                    sources if is_fused else (),
                    block_tokens=1024,
                    batch_blocks=1,
                    num_workers=arguments.workers,
                )
                made = module(
                    OwnLoss if "transformers" in name else FusionModule, is_fused, build, target.vocabulary_size
                )
                seconds, wait = trained(made, data, arguments.steps)
                spent[name] += seconds
                waited[name] += wait
    step = {name: statistics.median(seconds) for name, seconds in spent.items()}
    share = {name: waited[name] / sum(spent[name]) for name in spent}
    parameters = sum(p.numel() for p in build().parameters())

    table = Table("", "ms a step", "waited for data", title=f"{parameters / 1e6:.0f}M parameters, 1,024 tokens a step")
    for name in spent:
        table.add_row(name, f"{1e3 * step[name]:,.0f}", f"{share[name]:.2%}")
    Console().print(table)
    faster = min(seconds for name, seconds in step.items() if name != "fused")
    figures = {
        "fused_step_vs_clm_step": step["fused"] / faster,
        "data_wait_share": share["fused"],
        "fused_step_vs_clm_step_with_our_loss": step["fused"] / step["CLM"],
        "fused_step_seconds": step["fused"],
    }
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
