"""That a target which reads documents otherwise beside others is refused by name, at the lengths of its blocks."""

from typing import Any

import pytest
import torch
from models_for_tests import ARCHITECTURES, tiny_llm
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    RwkvConfig,
    RwkvForCausalLM,
)

from knowfuse.llms.head import output_head
from knowfuse.llms.isolation import Packing, length_borders, length_thresholds, require_read_alone

V = 64
SHAPE: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SHAPE |= {"num_key_value_heads": 2, "initializer_range": 0.2, "pad_token_id": 0}


def check(model: PreTrainedModel, block_tokens: int = 64, longest: int = 40, packing: Packing = "blocks") -> None:
    require_read_alone(model, output_head(model, V), packing, block_tokens, longest)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("packing", ["blocks", "one_document"])
@pytest.mark.parametrize("was_training", [True, False])
def test_llms_that_read_each_document_alone_may_be_targets(
    architecture: str, packing: Packing, was_training: bool
) -> None:
    llm = tiny_llm(architecture, V).train(was_training)
    check(llm, packing=packing)
    assert llm.training is was_training


@pytest.mark.parametrize("longest", [1, 5, 63, 64])
@pytest.mark.parametrize("block_tokens", [1, 2, 64])
def test_blocks_and_documents_of_any_length_are_checked(block_tokens: int, longest: int) -> None:
    check(tiny_llm("llama", V), block_tokens, min(longest, block_tokens))


class OneWindow(MistralForCausalLM):
    """Its window is lost where it is given positions, as a mask over a whole block would lose it."""

    def forward(self, input_ids: Any, position_ids: Any = None, **options: Any) -> Any:  # pyright: ignore
        self.config.sliding_window = None if position_ids is not None else 32
        return super().forward(input_ids=input_ids, position_ids=position_ids, **options)


@pytest.mark.parametrize(("longest", "is_refused"), [(32, False), (33, False), (40, True), (63, True)])
def test_a_lost_window_is_found_where_documents_are_longer(longest: int, is_refused: bool) -> None:
    """Of 33 tokens one row has lost one token, which the check lets pass; at the lengths that data have it does not."""
    llm = OneWindow(MistralConfig(sliding_window=32, **SHAPE))
    if not is_refused:
        return check(llm, 64, longest)
    with pytest.raises(
        ValueError, match=r"OneWindow does not read .* move what it computes .* set packing=one_document"
    ):
        check(llm, 64, longest)
    return None


class Maskless(LlamaForCausalLM):
    """A Llama whose documents are not told apart."""

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return False

    def forward(self, input_ids: Any, **_: Any) -> Any:  # pyright: ignore
        return super().forward(input_ids=input_ids)


def test_llms_that_look_at_a_neighbour_are_refused() -> None:
    """A recurrent one, which carries its state on, and one that ignores the mask."""
    rwkv = RwkvForCausalLM(RwkvConfig(vocab_size=V, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2))
    for llm in (rwkv, Maskless(tiny_llm("llama", V).config)):
        with pytest.raises(ValueError, match=rf"^{type(llm).__name__} does not read documents packed .* packing=one_d"):
            check(llm)


@pytest.mark.parametrize("name", ["mamba", "bloom"])
def test_llms_that_cannot_be_packed_are_served_a_document_a_row(name: str) -> None:
    if name == "mamba":
        llm = MambaForCausalLM(MambaConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2, state_size=8))
    else:
        llm = BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(
        ValueError,
        match=rf"{type(llm).__name__} does not read documents packed in a block .*: set packing=one_document",
    ):
        check(llm)
    check(llm, packing="one_document")


def longrope() -> Phi3ForCausalLM:
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 10000.0}
    factors |= {"original_max_position_embeddings": 24}
    torch.manual_seed(0)
    config = Phi3Config(
        max_position_embeddings=96, original_max_position_embeddings=24, rope_parameters=factors, **SHAPE
    )
    return Phi3ForCausalLM(config)


def test_an_llm_whose_longest_document_decides_for_the_block_is_refused_where_it_does() -> None:
    """Longrope: up to the length before it was extended, and where each batch is on one side, it is a target."""
    llm = longrope()
    assert length_borders(llm.config) == [24]
    check(llm, longest=24)
    with pytest.raises(ValueError, match=r"Phi3ForCausalLM does not read documents packed .* packing=one_document"):
        check(llm, longest=40)
    check(llm, longest=40, packing="one_document")


def test_the_thresholds_of_a_configuration_are_found() -> None:
    assert length_thresholds(longrope().config) == [24]
    assert 7 in length_thresholds(Qwen3Config(use_sliding_window=True, sliding_window=7, **SHAPE))


def test_an_llm_whose_logits_are_not_finite_is_told_so() -> None:
    """Not that it lets a document see its neighbour."""
    llm = tiny_llm("llama", V)
    head = output_head(llm, V)
    llm.model.norm.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"^the logits of LlamaForCausalLM are NaN or infinite: check its weights and"):
        require_read_alone(llm, head, "blocks", 64, 40)
