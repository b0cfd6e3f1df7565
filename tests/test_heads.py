"""An LLM in two halves makes the logits of the whole, whatever its forward does after the body."""

import warnings

import pytest
import torch
from models_for_tests import ARCHITECTURES, tiny_llm
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from knowfuse.heads import head_of

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 90}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.2}
IDS = torch.arange(1, 41).view(2, 20)


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    keys = {**SHAPE, **SPECIAL}
    if name == "gemma2":  # caps its logits
        config = Gemma2Config(**keys, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0)
        return Gemma2ForCausalLM(config).eval()
    if name == "cohere":  # scales them
        return CohereForCausalLM(CohereConfig(**keys, num_key_value_heads=2, logit_scale=0.3)).eval()
    if name == "mixtral":  # its body says more than hidden states
        return MixtralForCausalLM(MixtralConfig(**keys, num_key_value_heads=2, num_local_experts=2)).eval()
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=90, **SPECIAL)).eval()
    return tiny_llm(name, 90)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "gemma2", "cohere", "mixtral", "gpt2"])
def test_the_halves_make_the_logits_of_the_whole(name: str) -> None:
    """Rows of two documents at once, in chunks of seven, float32: 1e-5; and the LLM is as it was afterwards."""
    model = made(name)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        want = model(input_ids=IDS).logits
        with head_of(model) as head:
            assert head.name is not None
            hidden = head.body(input_ids=IDS, use_cache=False)[0].flatten(0, 1)
            logits = torch.cat([head(chunk) for chunk in hidden.split(7)])
        torch.testing.assert_close(logits, want.flatten(0, 1), rtol=1e-5, atol=1e-5)
        assert torch.equal(model(input_ids=IDS).logits, want)


def test_an_llm_that_cannot_be_cut_is_read_whole() -> None:
    """Its forward needs what only its own body says; a warning says what that costs."""
    model = made("llama")
    forward = model.forward

    def needs_more(**options: object) -> object:
        assert isinstance(model.model, nn.Module)
        if not hasattr(model.model, "layers"):
            raise TypeError("this forward looks at the layers of its body")
        return forward(**options)

    model.forward = needs_more  # type: ignore[method-assign]
    want = model(input_ids=IDS).logits.flatten(0, 1)
    with pytest.warns(UserWarning, match="LlamaForCausalLM cannot be cut before its head"):
        head = head_of(model).__enter__()
    hidden = head.body(input_ids=IDS, use_cache=False)[0].flatten(0, 1)
    assert torch.equal(head(hidden), want)
