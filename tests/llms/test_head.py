"""The hidden states and the head of small real LLMs make the logits that the LLMs make themselves."""

import warnings
from typing import Any

import pytest
import torch
from models_for_tests import ARCHITECTURES, tiny_llm
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

from knowfuse.llms.head import output_head, packed_hidden_states, row_logits
from knowfuse.llms.packed import packed_logits
from knowfuse.losses import head_logits

V = 101
SPECIAL = {
    "gemma": (Gemma3TextConfig, Gemma3ForCausalLM, {"final_logit_softcapping": 2.0, "head_dim": 8}),
    "cohere": (CohereConfig, CohereForCausalLM, {"logit_scale": 0.3}),
    "granite": (GraniteConfig, GraniteForCausalLM, {"logits_scaling": 7.0}),
    "phi": (PhiConfig, PhiForCausalLM, {}),
}


def llm(architecture: str) -> PreTrainedModel:
    """One that has nothing special, or a soft cap, a scale, a divisor, a bias."""
    if architecture in ARCHITECTURES:
        return tiny_llm(architecture, V)
    config, model, special = SPECIAL[architecture]
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": V, "max_position_embeddings": 64, "initializer_range": 0.2}
    torch.manual_seed(0)
    return model(config(**shape, **special, pad_token_id=0, bos_token_id=0, eos_token_id=0)).eval()


def block() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, positions and numbers of two documents."""
    ids = torch.randint(0, V, (1, 12), generator=torch.Generator().manual_seed(0))
    return ids, torch.tensor([[*range(5), *range(7)]]), torch.tensor([[1] * 5 + [2] * 7])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *SPECIAL])
def test_hidden_states_and_head_make_the_llms_own_logits(architecture: str, dtype: torch.dtype) -> None:
    """float32: the same sums, 1e-5. bfloat16: a scale or a cap is rounded there and not here, thrice by 2^-9."""
    model = llm(architecture).to(dtype)
    head = output_head(model, V)
    with torch.no_grad():
        want = packed_logits(model, *block()).flatten(0, 1).float()
        hidden = packed_hidden_states(model, head, *block())
    got = head_logits(hidden.flatten(0, 1), head.linear())
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("architecture", "soft_cap", "scale"),
    [("llama", None, 1.0), ("gemma", 2.0, 1.0), ("cohere", None, 0.3), ("granite", None, 1 / 7)],
)
def test_soft_cap_and_scale_are_those_of_the_configuration(architecture: str, soft_cap: Any, scale: float) -> None:
    head = output_head(llm(architecture), V)
    assert (head.soft_cap, head.scale) == (soft_cap, scale)


def test_a_soft_cap_is_found_however_small_the_logits_are() -> None:
    """Of 30, with logits of 0.01, which it changes by 1e-9."""
    model = llm("gemma")
    model.config.final_logit_softcapping = 30.0
    for p in model.parameters():
        p.data *= 0.01
    assert output_head(model, V).soft_cap == 30.0


@pytest.mark.parametrize(("tokens", "want"), [(97, 97), (V, V), (V + 1, V)])
def test_rows_beyond_the_tokenizer_are_padding(tokens: int, want: int) -> None:
    """A tokenizer may also have tokens that the LLM has no row for; no text is spelled with them."""
    assert output_head(llm("llama"), tokens).linear().vocabulary_size == want


def test_no_logits_are_made_on_the_way() -> None:
    """The head runs, on no rows; the model is as it was afterwards."""
    model = llm("llama")
    head = output_head(model, V)
    shapes: list[tuple[int, ...]] = []
    with head.module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape))):
        packed_hidden_states(model, head, *block())
        assert shapes == [(1, 0, V)]
        assert packed_logits(model, *block()).shape == (1, 12, V)


def test_a_head_with_a_low_rank_part_is_that_of_both() -> None:
    model = llm("llama")

    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.ones(V, 1))

        def forward(self, weight: Tensor) -> Tensor:
            return weight + self.shift

    parametrize.register_parametrization(model.get_output_embeddings(), "weight", Shift())
    head = output_head(model, V)
    torch.testing.assert_close(head.linear().weight, head.module.parametrizations.weight.original + 1.0)  # type: ignore[union-attr]


class Doubled(LlamaForCausalLM):
    """Its logits are not its head's."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        output = super().forward(*arguments, **options)
        output.logits = 2 * output.logits
        return output


class Adapted(nn.Linear):
    """As an adapter's layer: its output is more than its weight's."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 0.0


def with_head(module: nn.Module) -> PreTrainedModel:
    model = llm("llama")
    model.set_output_embeddings(module)
    return model


def test_models_whose_logits_cannot_be_remade_are_refused_by_name() -> None:
    doubled = Doubled(llm("llama").config)
    with pytest.raises(
        ValueError, match=r"the logits of Doubled are not those of its head, .*differ by 0\.5 of the larg"
    ):
        output_head(doubled, V)
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM has no linear LM head \(Sequential\): it cannot be a target"
    ):
        output_head(with_head(nn.Sequential(nn.Linear(32, V))), V)
    with pytest.raises(ValueError, match=r"the LM head of LlamaForCausalLM is a Adapted, whose output is not that"):
        output_head(with_head(Adapted(32, V)), V)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *SPECIAL])
def test_an_llm_that_only_reads_makes_the_logits_of_a_few_rows_at_a_time(architecture: str) -> None:
    """Rows of two documents, seven at a time, float32: the same sums, 1e-5; without a warning."""
    model, ids = llm(architecture), torch.arange(1, 41).view(2, 20)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        want = model(input_ids=ids).logits.flatten(0, 1)
        reader = row_logits(model)
        got = torch.cat(list(reader.logits(reader.read(ids).flatten(0, 1), 7)))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_an_llm_whose_head_is_unknown_is_read_whole() -> None:
    """A warning says why, and what it costs."""
    doubled, ids = Doubled(llm("llama").config), torch.arange(1, 41).view(2, 20)
    with pytest.warns(UserWarning, match="the logits of a batch are made at once: the logits of Doubled are not"):
        reader = row_logits(doubled)
    with torch.inference_mode():
        want = doubled(input_ids=ids).logits.flatten(0, 1)
        got = torch.cat(list(reader.logits(reader.read(ids).flatten(0, 1), 7)))
    assert torch.equal(got, want)


def test_a_head_in_four_bits_is_refused() -> None:
    """A real one of bitsandbytes, quantised on the CPU."""
    from bitsandbytes.nn import Linear4bit

    head = Linear4bit(32, V, bias=False, quant_type="nf4").to("cpu")
    assert head.weight.dtype == torch.uint8
    message = (
        r"the LM head of LlamaForCausalLM is quantised \(its weight is torch.uint8\) and cannot be trained: leave it"
    )
    with pytest.raises(ValueError, match=message):
        output_head(with_head(head), V)
