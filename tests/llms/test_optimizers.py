"""Every optimizer of the configuration trains, goes on bit-identically, and is as near AdamW as its 8 bits allow."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from experiments_for_tests import ROOT, PowerCut, composed, data_module, fusion_module, local_llm, trainer
from hydra.utils import instantiate

from knowfuse.llms.local import LocalLLM
from knowfuse.training.finished import Fit
from knowfuse.training.fit import fit
from knowfuse.training.module import FusionModule

CHOICES = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))
EIGHT_BIT = [choice for choice in CHOICES if "8bit" in choice]
WRAPPED = "__bnb_optimizer_quant_state__"  # where bitsandbytes saves a parameter's moments


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> LocalLLM:
    """Of width 64, so that its matrices have 4096 elements: of smaller ones the moments stay in 32 bits."""
    return local_llm(tmp_path_factory.mktemp("llm") / "target", width=64)


def learn(
    choice: str, target: LocalLLM, folder: Path, ckpt_path: Path | None = None, stop: bool = False
) -> tuple[Fit, FusionModule]:
    L.seed_everything(3, verbose=False)
    module = fusion_module(target, is_fused=False)
    chosen = instantiate(composed("train", f"optimizer={choice}").optimizer, _convert_="all")
    module.optimizer = lambda groups: chosen(groups, lr=1e-2)
    make = trainer(12, also=[PowerCut(7)] if stop else [])
    return fit("job", folder, module, data_module(), make, 1e-2, ckpt_path=ckpt_path), module


@pytest.fixture(scope="module")
def fits(target: LocalLLM, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Fit, FusionModule, Path]]:
    """A fit that ran through with each, from the same weights on the same batches."""
    folder = tmp_path_factory.mktemp("fits")
    return {choice: (*learn(choice, target, folder / choice), folder / choice) for choice in CHOICES}


def test_the_choices() -> None:
    assert CHOICES == ["adamw", "adamw_8bit", "paged_adamw_8bit"]


@pytest.mark.parametrize("choice", EIGHT_BIT)
def test_8_bits_learn_as_32_do(fits: dict[str, tuple[Fit, FusionModule, Path]], choice: str) -> None:
    """Validation after every second step within 1 % of AdamW's, while it falls by 10 %; not AdamW under another name."""
    (want, _, _), (got, _, _) = fits["adamw"], fits[choice]
    bits, its = ([value for _, value in f.history] for f in (want, got))
    assert bits[-1] < 0.9 * bits[0]
    assert its == pytest.approx(bits, rel=1e-2)
    assert its != bits


@pytest.mark.parametrize("choice", EIGHT_BIT)
def test_the_moments_are_in_8_bits(fits: dict[str, tuple[Fit, FusionModule, Path]], choice: str) -> None:
    """Read from the checkpoint: of every parameter of 4096 elements or more; both kinds occur, both moments move."""
    _, module, folder = fits[choice]
    states = torch.load(folder / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    sizes = [p.numel() for ndim in (True, False) for p in module.parameters() if (p.ndim >= 2) is ndim]
    assert len(states) == len(sizes)
    kinds = set()
    for number, size in enumerate(sizes):
        wanted = torch.uint8 if size >= 4096 else torch.float32
        moments = [states[number][WRAPPED][name] for name in ("state1", "state2")]
        assert {m.dtype for m in moments} == {wanted}
        assert all(m.unique().numel() > 1 for m in moments)
        kinds.add(wanted)
    assert len(kinds) == 2


@pytest.mark.parametrize("choice", CHOICES)
def test_a_stopped_fit_ends_bit_identical(
    target: LocalLLM, tmp_path: Path, fits: dict[str, tuple[Fit, FusionModule, Path]], choice: str
) -> None:
    """Weights, moments with their scales, and what was reported."""
    with pytest.raises(RuntimeError, match="power"):
        learn(choice, target, tmp_path / "fit", stop=True)
    assert learn(choice, target, tmp_path / "fit", tmp_path / "fit" / "last.ckpt")[0] == fits[choice][0]
    mine, its = (torch.load(f / "last.ckpt", weights_only=True) for f in (tmp_path / "fit", fits[choice][2]))
    assert same(mine["state_dict"], its["state_dict"])
    assert same(mine["optimizer_states"], its["optimizer_states"])


def same(one: Any, other: Any) -> bool:
    """Equal, tensors to the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_the_default_is_what_it_was() -> None:
    """The values that conf/train.yaml had before there was a choice."""
    chosen = composed("train").optimizer
    assert chosen == {"_target_": "torch.optim.AdamW", "_partial_": True, "betas": [0.9, 0.95], "fused": True}
