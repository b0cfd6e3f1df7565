"""Nothing of ours meets a tensor on another device than its own: reading, scoring and learning on a device that is no CPU.

It has the CPU's numbers, so what is found there is what the CPU finds, and refuses what a GPU refuses.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from experiments_for_tests import data_module, documents, fusion_module, local_llm, readers, run_python, trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from models_for_tests import ARCHITECTURES, tiny_llm
from tokenizers_for_tests import surface

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.rank_matched import rank_matched
from knowfuse.evaluation import score_documents, score_trained
from knowfuse.fusion.avg_ce import avg_ce
from knowfuse.llms.local import localize
from knowfuse.losses import completions, fused_linear_loss
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.traces.reading import trace_documents
from knowfuse.training.module import FusionModule
from knowfuse.types import LLMSpec

LEARNED: dict[str, dict[str, Any]] = {  # name -> what the module has
    "min_ce": {},
    "avg_ce": {"fusion": avg_ce, "loss": partial(fused_linear_loss, form="renormalised", gate="better")},
    "softened sets": {
        "loss": partial(
            fused_linear_loss,
            divergence="jensen_shannon",
            temperature=2.0,
            balance="match_clm",
            completion="set",
            sets=completions(surface("llama").token_bytes),
        )
    },
    "ranks": {},
    "checkpointed": {"activation_checkpointing": True},
}
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def on(device: torch.device, also: Sequence[L.Callback] = ()) -> Any:
    """What makes a Trainer whose one device this is."""
    if device.type == "cpu":
        return trainer(3, also=also)
    from device_for_tests import Accelerator

    strategy = SingleDeviceStrategy(device, accelerator=Accelerator())
    return trainer(3, also=also, strategy=strategy, accelerator="auto", devices="auto")


def target(folder: Path) -> FusionModule:
    build = partial(tiny_llm, "llama", surface("llama").vocabulary_size)
    return fusion_module(localize("target", LLMSpec(path=str(folder / "target"))), build=build, source_names=["neox"])


class Where(L.Callback):
    """Every parameter and every batch is on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert {p.device for p in pl_module.parameters()} == {self.device}
        assert batch.input_ids.device == batch.sources.nll.device == self.device


def learned(folder: Path, name: str, device: torch.device) -> dict[str, float]:
    """What the last of three steps logged, validation too."""
    sources, module = readers(folder / "traces", documents(30), ["neox"]), target(folder)
    if name == "ranks":
        sources[0].align = rank_matched(TokenizerPair(surface("neox"), surface("llama")))
    for setting, value in LEARNED[name].items():
        setattr(module, setting, value)
    runner = on(device, [Where(device)])(
        **QUIET, num_sanity_val_steps=0, use_distributed_sampler=False, log_every_n_steps=1
    )
    runner.fit(module, data_module(sources))
    return {key: float(value) for key, value in runner.callback_metrics.items()}


def scored(folder: Path, device: torch.device) -> dict[str, float]:
    """What a checkpoint's weights pay, read by a Trainer."""
    module = target(folder)
    module.configure_model()
    if device.type == "cpu":
        torch.save({"state_dict": module.state_dict()}, folder / "best.ckpt")
    other = fusion_module(module.llm, build=partial(tiny_llm, "llama", surface("llama").vocabulary_size, seed=7))
    texts = documents(20)
    return score_trained(on(device), other, folder / "best.ckpt", surface("llama"), texts, 96, 300).nats


def read(architecture: str, device: torch.device) -> dict[str, float]:
    """The nats that a source is found to pay, by its score and by its traces."""
    its = surface("neox" if architecture == "mpt" else "llama")
    model = tiny_llm(architecture, its.vocabulary_size).to(device)  # type: ignore[arg-type]
    texts = documents(20)
    scores = score_documents(model, its, texts, 96, 300)
    traced = trace_documents(model, its, tokenize_documents(its, texts, 96), 8, 300)
    nll = [float(trace.nll.sum()) for batch in traced for trace in batch.values()]
    return {"scores": sum(scores.nats.values()) + sum(scores.eos_nats.values()), "traces": sum(nll)}


SOME = ["llama", "softened sets", "ranks"]
WAYS = [*ARCHITECTURES, *LEARNED]


def found(folder: Path, device: torch.device, ways: Sequence[str]) -> dict[str, dict[str, float]]:
    everything = {f"read {name}": read(name, device) for name in ARCHITECTURES if name in ways}
    everything |= {f"learn {name}": learned(folder, name, device) for name in LEARNED if name in ways}
    return {**everything, "score": scored(folder, device)}


@pytest.mark.parametrize("ways", [SOME, pytest.param(WAYS, marks=pytest.mark.long)], ids=["some", "all"])
def test_what_is_found_on_a_device_is_what_the_cpu_finds(ways: list[str], tmp_path: Path) -> None:
    """By the ways that we read and learn, float32 sums in the same order: to the last bits. And the device refuses."""
    local_llm(tmp_path / "target")
    want = found(tmp_path, torch.device("cpu"), ways)
    run_python(__file__, str(tmp_path), *ways, cache=tmp_path)
    mine = json.loads((tmp_path / "found.json").read_text())
    assert mine.keys() == want.keys()
    for name, figures in want.items():
        assert mine[name] == pytest.approx(figures, rel=1e-6, abs=1e-6), name
    assert not json.loads((tmp_path / "missed.json").read_text())


def missed() -> list[str]:
    """Of mistakes that a GPU refuses, those that this device would let pass."""
    from device_for_tests import DEVICE

    there, here = torch.zeros(3, 4, device=DEVICE), torch.zeros(3, 4)
    wrong = {
        "a sum": lambda: there + here,
        "a product": lambda: here @ there.t(),
        "a mask": lambda: there.masked_fill(here > 0, 1.0),
        "ids": lambda: there.gather(1, here.long()),
        "an index of what is on the CPU": lambda: here[there[0].long()],
        "an assignment by index": lambda: there.index_put((torch.tensor([0]),), here[0]),
    }
    passed = []
    for name, mistake in wrong.items():
        try:
            mistake()
        except RuntimeError:
            continue
        passed.append(name)
    assert (there + torch.tensor(1.0)).device == DEVICE, "a number may be on the CPU"
    return passed


if __name__ == "__main__":
    from device_for_tests import DEVICE, Device

    torch.inference_mode = torch.no_grad  # type: ignore[misc,assignment]  (its tensors take no wrapper)
    with Device():
        Path(sys.argv[1], "missed.json").write_text(json.dumps(missed()))
        Path(sys.argv[1], "found.json").write_text(json.dumps(found(Path(sys.argv[1]), DEVICE, sys.argv[2:])))
