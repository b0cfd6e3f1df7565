"""That LLMs which look ahead are refused by name, in every precision, and causal ones are not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import ARCHITECTURES, tiny_llm
from torch import nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from knowfuse.llms.checks import require_causal, require_said_rows
from knowfuse.llms.local import localize
from knowfuse.types import LLMSpec

V = 64


def bert(folder: Path, is_decoder: bool) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=V, initializer_range=0.2, is_decoder=is_decoder, **shape)
    BertLMHeadModel(config).save_pretrained(folder)


PRECISIONS: list[dict[str, Any]] = [
    {},
    {"dtype": "bfloat16"},
    {"dtype": "float16"},
    {"quantization": "8bit"},
    {"quantization": "4bit"},
]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_llm_that_looks_ahead_is_refused_by_name(tmp_path: Path, precision: dict[str, Any]) -> None:
    """The same BERT is taken as a decoder."""
    bert(tmp_path / "encoder", is_decoder=False)
    llm = localize("mine", LLMSpec(path=str(tmp_path / "encoder"), **precision))
    message = (
        r"^LLM 'mine' is not causal: a token that comes later moves the logits before it, by [0-9.]+ where the largest is "
        r"[0-9.]+ \(BertLMHeadModel\)\. Give an LLM that reads from left to right, or set is_decoder in its config\.json"
    )
    with pytest.raises(ValueError, match=message):
        llm.load()
    with pytest.raises(ValueError, match=message), llm.to_read(tmp_path):
        pass
    bert(tmp_path / "decoder", is_decoder=True)
    assert not localize("mine", LLMSpec(path=str(tmp_path / "decoder"), **precision)).load().training


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [*ARCHITECTURES, "mamba", "rwkv", "bloom"])
def test_causal_llms_are_taken_in_every_precision(tmp_path: Path, name: str, precision: dict[str, Any]) -> None:
    """Transformers of width 32 and 64, and recurrent ones; 4-bit blocks are of 64 weights."""
    torch.manual_seed(0)
    if name == "mamba":
        llm: Any = MambaForCausalLM(MambaConfig(vocab_size=V, hidden_size=64, num_hidden_layers=2, state_size=8))
    elif name == "rwkv":
        llm = RwkvForCausalLM(RwkvConfig(vocab_size=V, hidden_size=64, attention_hidden_size=64, num_hidden_layers=2))
    elif name == "bloom":
        llm = BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=64, n_layer=2, n_head=4))
    elif precision.get("quantization") == "4bit":
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        llm = LlamaForCausalLM(LlamaConfig(vocab_size=V, **shape))
    else:
        llm = tiny_llm(name, V)
    require_causal(llm.eval(), name)
    llm.save_pretrained(tmp_path)
    if name in ARCHITECTURES:
        localize("mine", LLMSpec(path=str(tmp_path), **precision)).load()


def test_logits_that_are_not_finite_are_not_a_matter_of_causality() -> None:
    for broken in (float("nan"), float("inf")):
        llm = tiny_llm("llama", V)
        llm.get_input_embeddings().weight.data[:] = broken
        require_causal(llm, "mine")


def test_code_that_fails_as_it_likes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an LLM that was written for another transformers, most often an AttributeError."""
    llm = tiny_llm("llama", V)

    def forward(*_: object, **__: object) -> None:
        raise AttributeError("'DynamicCache' object has no attribute 'get_usable_length'")

    monkeypatch.setattr(llm, "forward", forward)
    with pytest.raises(
        ValueError, match=r"get_usable_length'\): .*of code of its own, whether that is for this transformers"
    ):
        require_causal(llm, "mine")


def test_an_llm_that_cannot_read_at_all_is_named(tmp_path: Path) -> None:
    """An MPT whose distances end before a text of 8 tokens does."""
    tiny_llm("mpt", V, context_length=4).save_pretrained(tmp_path)
    message = (
        r"^LLM 'mine' cannot read a text of 8 tokens on cpu \(RuntimeError: .*: check its files, whether its quanti"
    )
    with pytest.raises(ValueError, match=message):
        localize("mine", LLMSpec(path=str(tmp_path))).load()


def test_fewer_logits_than_the_configuration_says_are_refused() -> None:
    llm = tiny_llm("llama", 64)
    llm.set_output_embeddings(nn.Linear(32, 60, bias=False))
    with pytest.raises(
        ValueError, match=r"^LLM 'mine': its config\.json says vocab_size 64, its weights have rows for 60"
    ):
        require_said_rows(llm, "mine", 64)
