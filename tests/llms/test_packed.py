"""That packed documents are read as if each were alone, and that LLMs which cannot are refused."""

import pytest
import torch
from models_for_tests import ARCHITECTURES, tiny_llm
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from knowfuse.llms.packed import packed_logits, require_isolated_documents

V = 64


def pack(lengths: list[int], padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random documents of these lengths in one block: ids, position ids, document ids."""
    total = sum(lengths)
    ids = torch.randint(0, V, (total,), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(n) for n in [*lengths, padding]])
    documents = torch.cat([torch.full((n,), k) for k, n in enumerate(lengths, 1)] + [torch.zeros(padding)]).long()
    return torch.cat([ids, torch.zeros(padding, dtype=torch.int64)])[None], positions[None], documents[None]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("padding", [0, 3])
def test_packed_documents_are_read_as_if_alone(architecture: str, padding: int) -> None:
    """Against a plain forward of each document; float32 with other shapes of matrix products: 1e-5."""
    llm, lengths = tiny_llm(architecture, V), [5, 9, 1, 6]
    block = pack(lengths, padding)
    with torch.no_grad():
        packed = packed_logits(llm, *block)[0]
        alone = [llm(input_ids=ids[None]).logits[0] for ids in block[0][0, : sum(lengths)].split(lengths)]
    torch.testing.assert_close(packed[: sum(lengths)], torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(packed).all()
    assert packed.std() > 0.1  # the logits say something that could differ


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_of_a_batch_do_not_meet(architecture: str) -> None:
    """Two blocks of other documents in one batch against each by itself."""
    llm = tiny_llm(architecture, V)
    one, other = pack([5, 9, 1, 6], 0), pack([12, 4], 5)
    with torch.no_grad():
        both = packed_logits(llm, *(torch.cat(pair) for pair in zip(one, other, strict=True)))
        each = torch.cat([packed_logits(llm, *one), packed_logits(llm, *other)])
    torch.testing.assert_close(both, each, rtol=1e-5, atol=1e-5)  # float32


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_stays_finite_where_a_row_may_look_at_little(architecture: str) -> None:
    llm = tiny_llm(architecture, V).bfloat16()
    with torch.no_grad():
        packed = packed_logits(llm, *pack([1, 1, 8], 6))
    assert packed.dtype == torch.bfloat16
    assert torch.isfinite(packed).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("was_training", [True, False])
def test_llms_with_a_document_mask_may_be_targets(architecture: str, was_training: bool) -> None:
    llm = tiny_llm(architecture, V).train(was_training)
    require_isolated_documents(llm, V)
    assert llm.training is was_training


class Maskless(nn.Module):
    """A Llama that is not told which tokens it may look at."""

    def __init__(self) -> None:
        super().__init__()
        self.llama = tiny_llm("llama", V)
        self.config = self.llama.config

    def forward(self, input_ids: Tensor, position_ids: Tensor, **_: object) -> object:
        return self.llama(input_ids=input_ids, position_ids=position_ids)


def test_llms_that_look_at_a_neighbour_are_refused() -> None:
    """A recurrent one, which carries its state on, and one that ignores the mask."""
    rwkv = RwkvForCausalLM(RwkvConfig(vocab_size=V, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2))
    for llm in (rwkv, Maskless()):
        with pytest.raises(ValueError, match=rf"{type(llm).__name__} lets a document see its neighbour .* cannot be a"):
            require_isolated_documents(llm, V)


@pytest.mark.parametrize("name", ["mamba", "bloom"])
def test_llms_that_take_no_document_mask_are_refused_by_name(name: str) -> None:
    if name == "mamba":
        llm = MambaForCausalLM(MambaConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2, state_size=8))
    else:
        llm = BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(ValueError, match=rf"{type(llm).__name__} does not take a mask .* cannot be a target"):
        require_isolated_documents(llm, V)


def test_an_llm_whose_logits_are_not_finite_is_told_so() -> None:
    """Not that it lets a document see its neighbour."""
    llm = tiny_llm("llama", V)
    llm.model.norm.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"^the logits of LlamaForCausalLM are NaN or infinite: check its weights and"):
        require_isolated_documents(llm, V)
