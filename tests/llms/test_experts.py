"""Adapters beside a mixture of experts: what learns, what stays as it is and is said so, what comes out, what is planned."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures_for_tests import PACKED, tiny
from experiments_for_tests import data_module, documents, fusion_module, readers, trainer
from tokenizers_for_tests import llama
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from knowfuse.llms.finetune import adapters, full, lora, merged, qlora, what_learns
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.llms.parts import decoder_layers, experts_of, text_model
from knowfuse.types import LLMSpec

V = len(llama())
MIXTURES = ["mixtral", "qwen3_moe", "gpt_oss", "llama4", "qwen3_next"]
PICTURES = ["gemma3_with_pictures", "mistral3_with_pictures"]
OPTIONS: dict[str, Any] = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear"}


def saved(folder: Path, architecture: str) -> LocalLLM:
    tiny(architecture, V).save_pretrained(folder)
    llama().save_pretrained(folder)
    return localize("mixture", LLMSpec(path=str(folder)))


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def at_work(model: PreTrainedModel) -> PreTrainedModel:
    """B is drawn too: adapters of a new model add nothing."""
    torch.manual_seed(7)
    for name, parameter in trained(model).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model.eval()


def rounded_otherwise(model: PreTrainedModel) -> PreTrainedModel:
    """The same in place, each weight up or down by about half the distance to the next float32."""
    for parameter in model.parameters():
        parameter.mul_(1 + (torch.rand_like(parameter) < 0.5).mul(2).sub(1) * torch.finfo(torch.float32).eps / 2)
    return model


@pytest.mark.parametrize("architecture", MIXTURES)
def test_lora_leaves_experts_and_routers_as_they_are(tmp_path: Path, architecture: str) -> None:
    """Adapters on exactly the linear layers, shared experts among them; merged, the LLM says what the adapted one says."""
    llm = saved(tmp_path / "llm", architecture)
    plain, model = tiny(architecture, V), at_work(lora(llm, **OPTIONS))
    linear = {name for name, m in plain.named_modules() if type(m) is nn.Linear and name != "lm_head"}
    assert adapters(model).keys() == linear
    experts = experts_of(model)
    assert experts is not None
    assert (experts.number, experts.layers) == (2 if architecture == "llama4" else 4, 4)
    assert not any(p.requires_grad for p in experts.tensors.values())
    assert all("lora_A" in name or "lora_B" in name for name in trained(model))
    ids = torch.arange(1, 33)[None]
    whole = merged(llm, model)
    with torch.no_grad():
        want, got, before = (m(input_ids=ids).logits for m in (model, whole, plain))
        nudged = torch.stack([rounded_otherwise(whole)(input_ids=ids).logits for _ in range(4)])
    # One product instead of two is as far off as other roundings of the weights, of which a recurrence makes much.
    assert (got - want).abs().max() <= 4 * (nudged - got).abs().max() < 0.004
    assert (before - want).abs().max() > 0.05, "the adapters are at work"


def test_what_learns_is_said_when_a_fit_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llm = saved(tmp_path / "llm", "qwen3_moe")
    module = fusion_module(llm, build=partial(qlora, llm, **OPTIONS))
    data = data_module(readers(tmp_path / "traces", documents(30)))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer(1, limit_val_batches=0, enable_model_summary=False, **options)().fit(module, data)
    said = " ".join(capsys.readouterr().out.split())
    learnt = 4 * 4 * ((32 + 64) + 2 * (32 + 32) + (64 + 32))
    count, stacked = sum(p.numel() for p in tiny("qwen3_moe", V).parameters()) + learnt, 4 * 4 * 3 * 32 * 32
    assert f"mixture: trains {what_learns(module.network)}" in said
    assert (
        f"adapters on 16 layers (k_proj, o_proj, q_proj, v_proj), {learnt / count:.2%} of {count / 1e6:.1f} M parameters"
        in said
    )
    assert (
        f"the 4 experts in each of 4 layers, {stacked / count:.1%} of the parameters, stay as they are, not quantised"
        in said
    )


@pytest.mark.parametrize(
    ("architecture", "targets", "message"),
    [
        (
            "mixtral",
            ["q_proj", "experts"],
            r"'experts' names its experts, .* \(model\.layers\.0\.mlp\.experts\.gate_up_proj\): leave",
        ),
        (
            "gpt_oss",
            ["down_proj"],
            r"'down_proj' names its experts, which are no linear layers but slices of one tensor",
        ),
        (
            "mixtral",
            ["w1"],
            "a linear layer 'w1' is not found in its text model; it has k_proj, o_proj, q_proj, v_proj",
        ),
        ("mixtral", ["gate"], "a linear layer 'gate' is not found"),
        ("gemma3_with_pictures", ["fc1"], "a linear layer 'fc1' is not found in its text model"),
    ],
)
def test_adapters_on_experts_are_refused_by_name(
    tmp_path: Path, architecture: str, targets: list[str], message: str
) -> None:
    llm = saved(tmp_path / "llm", architecture)
    with pytest.raises(
        ValueError, match=rf"^LLM 'mixture' takes no adapters on finetune\.target_modules=.*: {message}"
    ):
        lora(llm, **{**OPTIONS, "target_modules": targets})


@pytest.mark.parametrize("architecture", PICTURES)
@pytest.mark.parametrize("build", [full, partial(lora, **OPTIONS)], ids=["full", "lora"])
def test_what_reads_pictures_stays_as_it_is(tmp_path: Path, architecture: str, build: Any) -> None:
    """Of the text model all learns, or its adapters alone."""
    model = build(saved(tmp_path / "llm", architecture))
    learns = trained(model)
    assert not [name for name in learns if "vision" in name or "multi_modal" in name]
    if build is full:
        text = {id(p) for part in (text_model(model), model.get_output_embeddings()) for p in part.parameters()}
        assert {id(p) for p in learns.values()} == text
    else:
        assert all("language_model.layers" in name and "lora_" in name for name in learns)


def test_decoder_layers_are_those_of_the_text() -> None:
    """Though what reads pictures has more layers."""
    config = PACKED["gemma3_with_pictures"](V)
    config.vision_config.num_hidden_layers = 9
    model = AutoModelForCausalLM.from_config(config)
    assert len(decoder_layers(model)) == 4
    assert type(decoder_layers(model)[0]).__name__ == "Gemma3DecoderLayer"
