"""The loss that keeps experts in balance: transformers' own, of real tokens alone, and it is learnt."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures_for_tests import tiny
from experiments_for_tests import data_module, documents, fusion_module, readers, trainer
from lightning.pytorch.loggers import CSVLogger
from tokenizers_for_tests import llama, surface
from torch import Tensor
from transformers import PreTrainedModel

from knowfuse.llms.head import hidden_states, output_head, packed_hidden_states
from knowfuse.llms.local import LocalLLM, checkpoint_activations, localize
from knowfuse.llms.routers import Routers, routers_of
from knowfuse.llms.sharding import FSDP2
from knowfuse.training.module import FusionModule
from knowfuse.types import LLMSpec

V = len(llama())
MIXTURES = ["mixtral", "qwen3_moe", "gpt_oss", "granite_hybrid"]
LENGTHS = [20, 9, 14]


def ids_of(length: int) -> Tensor:
    return torch.randint(0, V, (1, length), generator=torch.Generator().manual_seed(length))


def block(padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """The documents in one row, and so much padding."""
    ids = torch.cat([*(ids_of(n) for n in LENGTHS), torch.zeros(1, padding, dtype=torch.int64)], 1)
    positions = torch.cat([torch.arange(n) for n in [*LENGTHS, padding]])[None]
    numbers = torch.repeat_interleave(torch.tensor([1, 2, 3, 0]), torch.tensor([*LENGTHS, padding]))[None]
    return ids, positions, numbers


def mixture(architecture: str, weight: float = 0.02) -> tuple[PreTrainedModel, Routers]:
    model = tiny(architecture, V)
    routers = routers_of(model, weight)
    assert routers is not None
    return model, routers


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("architecture", MIXTURES)
def test_it_is_what_transformers_adds(architecture: str) -> None:
    """Of one document, value and every gradient against its forward with labels; float32 sums in another order."""
    model, routers = mixture(architecture)
    ids = ids_of(24)
    its = model(input_ids=ids, labels=ids, output_router_logits=True, use_cache=False).aux_loss
    its.backward()
    want = gradients(model)
    head = output_head(model, V)
    with routers.recording() as said:
        hidden_states(model, head, ids)
    mine = routers.loss(said, torch.ones_like(ids).bool())
    mine.backward()
    got = gradients(model)
    torch.testing.assert_close(mine, its)
    assert got.keys() == want.keys()
    assert any(name.endswith(("gate.weight", "router.weight")) for name in got)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_padding_is_no_token(architecture: str) -> None:
    """A padded block of documents against their own router logits, one after another, by transformers' function."""
    model, routers = mixture(architecture)
    rows, head = block(padding=7), output_head(model, V)
    with torch.no_grad(), routers.recording() as said:
        packed_hidden_states(model, head, *rows)
    with torch.no_grad():
        outputs = [model(input_ids=ids_of(n), output_router_logits=True, use_cache=False) for n in LENGTHS]
    alone = tuple(torch.cat(layer) for layer in zip(*(o.router_logits for o in outputs), strict=True))
    want = routers.balance(alone, 4, 2)
    torch.testing.assert_close(routers.loss(said, rows[2] > 0), want, rtol=1e-5, atol=0)
    assert abs(routers.loss(said, rows[2] >= 0) - want) > 1e-3, "padding would move it"


def test_layers_that_run_twice_are_counted_once() -> None:
    """With activation checkpointing the same loss and the same gradients, of the routers too."""
    found = []
    for is_checkpointed in (False, True):
        model, routers = mixture("mixtral")
        head = output_head(model.train(), V)
        if is_checkpointed:
            checkpoint_activations(model)
        with routers.recording() as said:
            hidden = hidden_states(model, head, ids_of(24))
        loss = routers.loss(said, torch.ones(1, 24).bool())
        (loss + hidden.square().mean()).backward()
        assert len(said) == 4
        found.append((loss.detach(), gradients(model)))
    (one, of_one), (two, of_two) = found
    assert torch.equal(one, two)
    assert of_one.keys() == of_two.keys()
    assert all(torch.equal(of_one[name], of_two[name]) for name in of_one)


# ---- in a fit -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LocalLLM:
    folder = tmp_path_factory.mktemp("mixture")
    tiny("qwen3_moe", V).save_pretrained(folder)
    llama().save_pretrained(folder)
    return localize("mixture", LLMSpec(path=str(folder)))


def fitted(
    llm: LocalLLM, folder: Path, weight: float | None, steps: int = 3, rate: float = 2e-3, **options: Any
) -> FusionModule:
    data = data_module(readers(folder / "traces", documents(30)))
    module = fusion_module(llm, router_loss=weight, learning_rate=rate, activation_checkpointing="strategy" in options)
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    options |= {
        "logger": CSVLogger(folder),
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
        "log_every_n_steps": 1,
        **quiet,
    }
    trainer(steps, **options)().fit(module, data)
    return module


def logged(folder: Path) -> str:
    return next(folder.rglob("metrics.csv")).read_text()


def test_it_is_learnt_and_logged(llm: LocalLLM, tmp_path: Path) -> None:
    """On the text it learnt from its experts are used more evenly; an LLM whose configuration asks for none has none."""
    with_it, without = (fitted(llm, tmp_path / str(w), w, 8, 1e-2) for w in (5.0, None))
    assert "train/router_loss" in logged(tmp_path / "5.0")
    assert "train/router_loss" not in logged(tmp_path / "None")
    texts = [surface("llama").tokenize(d.text, d.is_complete).input_ids for d in documents(30)]
    ids = torch.from_numpy(np.concatenate(texts))[None, :1000]

    def uneven(module: FusionModule) -> float:
        routers = routers_of(module.network, 1.0)
        assert routers is not None
        with torch.no_grad(), routers.recording() as said:
            module.network(input_ids=ids, use_cache=False)
        return float(routers.loss(said, ids >= 0))

    assert uneven(with_it) < uneven(without) - 0.01


def test_in_shards_it_is_learnt_as_on_one_device(
    llm: LocalLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP2 on one process, whose parameters are gathered and freed layer by layer, layers run twice: the same weights."""
    plain = fitted(llm, tmp_path / "plain", 0.5)
    monkeypatch.setenv("LOCAL_RANK", "0")
    sharded = fitted(llm, tmp_path / "sharded", 0.5, strategy=FSDP2(), devices=1)
    torch.distributed.destroy_process_group()
    for (name, want), got in zip(plain.network.named_parameters(), sharded.network.parameters(), strict=True):
        torch.testing.assert_close(got.full_tensor(), want, rtol=1e-4, atol=1e-5, msg=name)


# ---- whose, and how much --------------------------------------------------------------------------------------------


def test_the_configuration_says_how_much() -> None:
    """Its coefficient where it asks for router logits, as transformers' own forward does; a number wins, 0 is none."""
    model = tiny("mixtral", V)
    assert routers_of(model, None) is None
    model.config.output_router_logits = True
    model.config.router_aux_loss_coef = 0.03
    found = routers_of(model, None)
    assert found is not None
    assert found.weight == 0.03
    assert routers_of(model, 0.0) is None
    assert routers_of(tiny("llama", V), None) is None


@pytest.mark.parametrize(("architecture", "name"), [("llama", "LlamaForCausalLM"), ("llama4", "Llama4ForCausalLM")])
def test_an_llm_without_such_a_loss_is_refused(architecture: str, name: str) -> None:
    message = rf"^router_loss is 0\.01, and transformers has no loss that balances experts for {name} as it is configured: leave"
    with pytest.raises(ValueError, match=message):
        routers_of(tiny(architecture, V), 0.01)
