"""A target split over two processes (FSDP2 on the CPU) learns as one process does."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from experiments_for_tests import data_module, documents, fusion_module, local_llm, readers, run_python, trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from models_for_tests import ARCHITECTURES, tiny_llm
from torch import nn
from torch.distributed.tensor import DTensor

from knowfuse.llm import localize
from knowfuse.module import FusionModule
from knowfuse.sharding import decoder_layers
from knowfuse.training import Fit, fit, load_best
from knowfuse.types import LLMSpec

STEPS = 6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_decoder_layers_are_found(architecture: str) -> None:
    """The two layers of the tiny LLMs, whatever their list is called."""
    layers = decoder_layers(tiny_llm(architecture, 64))
    assert len(layers) == 2
    assert all(type(layer).__name__.endswith(("Layer", "Block")) for layer in layers)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Linear has no list of decoder layers to shard: use trainer=gpu or trainer=cpu"
    ):
        decoder_layers(nn.Linear(2, 2))


class PowerCut(L.Callback):
    """The machine stops after five steps, one past a checkpoint."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 5:
            raise RuntimeError("the power is cut")


def learn(folder: Path, name: str, ranks: int, ckpt_path: Path | None = None, stop: bool = False) -> FusionModule:
    """A fused fit on `ranks` processes; a step has four blocks on all of them together."""
    # A Unigram tokenizer would not do: its training gives each process another one.
    data = data_module(readers(folder / "traces", documents(30), ["neox"]), batch_blocks=4 // ranks)
    options: dict[str, Any] = {}
    if ranks > 1:
        sharded = ModelParallelStrategy(ranks, tensor_parallel_size=1, save_distributed_checkpoint=True)
        options = {"strategy": sharded, "devices": ranks}
    module = fusion_module(localize("target", LLMSpec(path=str(folder / "target"))), source_names=["neox"])
    make = trainer(STEPS, also=[PowerCut()] if stop else [], **options)
    fit(name, folder / name, module, data, make, 2e-3, ckpt_path=ckpt_path)
    return module


def on_each_rank(folder: Path) -> None:
    """What the command below runs; Lightning starts it once more for the second rank."""
    module = learn(folder, "whole", ranks=2)
    assert all(isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in module.parameters())
    with contextlib.suppress(RuntimeError):
        learn(folder, "stopped", ranks=2, stop=True)
    learn(folder, "stopped", ranks=2, ckpt_path=folder / "stopped" / "last.ckpt")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit on two ranks, and of one that was stopped and went on; every parameter was in shards."""
    folder = tmp_path_factory.mktemp("sharded")
    local_llm(folder / "target")
    readers(folder / "traces", documents(30), ["neox"])
    run_python(__file__, str(folder), cache=folder)
    return folder


def kept(folder: Path, name: str) -> tuple[Fit, FusionModule]:
    """A finished fit and the target with its best weights."""
    found = Fit.from_json(json.loads((folder / name / "fit.json").read_text()))
    llm = localize("target", LLMSpec(path=str(folder / "target")))
    return found, load_best(fusion_module(llm), folder / name, found)


def test_two_ranks_learn_as_one(sharded: Path) -> None:
    """The same blocks a step on one process: equal token counts and validation. What differs is the order of float32
    sums, which Adam's first steps, nearly signs, enlarge where a gradient is all but zero."""
    learn(sharded, "one", ranks=1)
    (two, its), (one, mine) = kept(sharded, "whole"), kept(sharded, "one")
    assert [tokens for tokens, _ in two.history] == [tokens for tokens, _ in one.history]
    assert [bits for _, bits in two.history] == pytest.approx([bits for _, bits in one.history], rel=1e-4)
    assert one.history[-1][1] < 0.99 * one.history[0][1], "and it learns"
    torch.testing.assert_close(its.state_dict(), mine.state_dict(), rtol=1e-2, atol=1e-4)


def test_a_stopped_fit_on_two_ranks_ends_bit_identical(sharded: Path) -> None:
    (whole, its), (resumed, mine) = kept(sharded, "whole"), kept(sharded, "stopped")
    assert resumed.history == whole.history
    assert all(torch.equal(value, mine.state_dict()[key]) for key, value in its.state_dict().items())
    assert (sharded / "whole" / "best.ckpt").is_dir(), "its checkpoint is in shards"
    assert sorted(p.name for p in (sharded / "whole").iterdir()) == ["best.ckpt", "fit.json", "last.ckpt"]


if __name__ == "__main__":
    on_each_rank(Path(sys.argv[1]))
