"""That packed documents are read as if each were alone; of all architectures in test_architectures.py."""

import pytest
import torch
from models_for_tests import ARCHITECTURES, tiny_llm
from torch import Tensor

from knowfuse.llms.packed import packed_logits

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
