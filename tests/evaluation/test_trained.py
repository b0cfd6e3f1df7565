"""What a fit that was read again leaves: nothing."""

from functools import partial
from pathlib import Path

import pytest
import torch
from experiments_for_tests import documents, fusion_module, local_llm, trainer
from lightning.pytorch.profilers import SimpleProfiler
from models_for_tests import tiny_llm
from tokenizers_for_tests import surface

from knowfuse.evaluation import score_trained


def test_a_profiler_of_the_fit_writes_nothing_where_the_command_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `debug=profile` has one: without a logger Lightning puts its table into the working directory."""
    monkeypatch.chdir(tmp_path)
    build = partial(tiny_llm, "llama", surface("llama").vocabulary_size)
    module = fusion_module(local_llm(tmp_path / "llm", "llama"), build=build)
    module.configure_model()
    torch.save({"state_dict": module.state_dict()}, tmp_path / "best.ckpt")
    there = set(tmp_path.rglob("*"))
    make = trainer(profiler=SimpleProfiler(filename="profile"))
    score_trained(make, module, tmp_path / "best.ckpt", surface("llama"), documents(3), 96, 300)
    assert set(tmp_path.rglob("*")) == there
