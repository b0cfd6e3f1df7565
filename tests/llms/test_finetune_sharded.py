"""Adapters beside a base in shards over two processes (FSDP2 on the CPU) learn as one process does."""

import contextlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from bitsandbytes.optim import AdamW8bit
from commands_for_tests import run_ranks
from experiments_for_tests import (
    PowerCut,
    data_module,
    documents,
    fusion_module,
    local_llm,
    readers,
    trainer,
)
from torch.distributed.tensor import DTensor

from knowfuse.llms.finetune import lora, qlora
from knowfuse.llms.local import localize
from knowfuse.llms.sharding import FSDP2
from knowfuse.training.finished import Fit
from knowfuse.training.fit import fit, load_best
from knowfuse.training.module import FusionModule
from knowfuse.types import LLMSpec

METHODS = {"lora": lora, "qlora": qlora}


def module_of(folder: Path, method: str) -> FusionModule:
    llm = localize("target", LLMSpec(path=str(folder / "target")))
    build = partial(METHODS[method], llm, rank=4, alpha=8.0, dropout=0.0, target_modules="all-linear")
    return fusion_module(llm, source_names=["neox"], build=build, learning_rate=1e-2)


def learn(
    folder: Path, method: str, name: str, ranks: int, ckpt_path: Path | None = None, stop: bool = False
) -> FusionModule:
    """A fused fit on `ranks` processes; a step has four blocks on all of them together."""
    L.seed_everything(3, verbose=False)
    data = data_module(readers(folder / "traces", documents(30), ["neox"]), batch_blocks=4 // ranks)
    options: dict[str, Any] = {}
    if ranks > 1:
        options = {"strategy": FSDP2(), "devices": ranks}
    module = module_of(folder, method)
    if name == "8bit":
        module.optimizer = partial(AdamW8bit, lr=1e-2)
    make = trainer(4, also=[PowerCut(3)] if stop else [], **options)
    fit(name, folder / method / name, module, data, make, 1e-2, ckpt_path=ckpt_path)
    return module


def on_each_rank(folder: Path, method: str) -> None:
    """What the command below runs, on two ranks."""
    module = learn(folder, method, "whole", ranks=2)
    assert all(isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in module.parameters())
    with contextlib.suppress(RuntimeError):
        learn(folder, method, "stopped", ranks=2, stop=True)
    learn(folder, method, "stopped", ranks=2, ckpt_path=folder / method / "stopped" / "last.ckpt")
    with pytest.raises(ValueError, match=r"optimizer AdamW8bit of bitsandbytes cannot update .*: set optimizer=adamw"):
        learn(folder, method, "8bit", ranks=2)


@pytest.fixture(scope="module", params=["lora", pytest.param("qlora", marks=pytest.mark.long)])
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def sharded(method: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fits on two ranks: every parameter, frozen, in 4 bits or trained, was in shards."""
    folder = tmp_path_factory.mktemp("sharded")
    local_llm(folder / "target", width=64)
    readers(folder / "traces", documents(30), ["neox"])
    run_ranks(__file__, str(folder), method, cache=folder)
    return folder


def kept(folder: Path, method: str, name: str) -> tuple[Fit, dict[str, torch.Tensor]]:
    """A finished fit and its best adapters."""
    found = Fit.from_json(json.loads((folder / method / name / "fit.json").read_text()))
    return found, load_best(module_of(folder, method), folder / method / name, found).state_dict()


def test_two_ranks_learn_as_one(sharded: Path, method: str) -> None:
    """The same adapters at the start and the same blocks a step; what differs is the order of float32 sums, which Adam's first
    steps, nearly signs, enlarge where a gradient is all but zero."""
    learn(sharded, method, "one", ranks=1)
    (two, its), (one, mine) = kept(sharded, method, "whole"), kept(sharded, method, "one")
    assert [tokens for tokens, _ in two.history] == [tokens for tokens, _ in one.history]
    assert [bits for _, bits in two.history] == pytest.approx([bits for _, bits in one.history], rel=1e-4)
    assert one.history[-1][1] < 0.998 * one.history[0][1], "and it learns"
    assert its.keys() == mine.keys()
    assert all("lora_" in name for name in its)
    torch.testing.assert_close(its, mine, rtol=1e-2, atol=5e-3)  # half of one step of Adam's


def test_a_stopped_fit_on_two_ranks_ends_bit_identical(sharded: Path, method: str) -> None:
    (whole, its), (resumed, mine) = (kept(sharded, method, name) for name in ("whole", "stopped"))
    assert resumed.history == whole.history
    assert all(torch.equal(value, mine[name]) for name, value in its.items())
    assert (sharded / method / "whole" / "best.ckpt").is_dir(), "its checkpoint is in shards"


if __name__ == "__main__":
    on_each_rank(Path(sys.argv[1]), sys.argv[2])
