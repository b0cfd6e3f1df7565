"""Blocks with text that a target wrote: its prompt is read, and not learnt."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chats_for_tests import SAID, chat, conversation, tokens_of
from experiments_for_tests import documents, readers
from tokenizers_for_tests import surface

from knowfuse.fusion.cross_entropy import cross_entropy
from knowfuse.training.blocks import PackedBlocks
from knowfuse.types import IGNORE


@pytest.mark.parametrize("begun", [1, 7, 20])
def test_of_a_text_what_begins_behind_the_prompt_is_learnt(tmp_path: Path, begun: int) -> None:
    """Labels, bytes, labels of a block, and by which text sources are judged: all but the prompt as without one."""
    (plain,) = [document for document in documents(3) if document.num_bytes > 60][:1]
    own = replace(plain, prompt_bytes=begun)
    sources = readers(tmp_path, [plain])
    before, after = (PackedBlocks([d], surface("llama"), 96, sources) for d in (plain, own))
    ends = surface("llama").tokenize(plain.text, plain.is_complete).ends
    is_prompt = torch.zeros(96, dtype=torch.bool)
    is_prompt[: len(ends)] = torch.from_numpy(ends) < begun
    want, got = before[0], after[0]
    assert is_prompt.any()
    assert torch.equal(got.input_ids, want.input_ids)
    assert torch.equal(got.labels[0], want.labels[0].masked_fill(is_prompt, IGNORE))
    assert torch.equal(got.label_bytes[0], want.label_bytes[0].masked_fill(is_prompt, 0))
    assert after.num_labels(0) == int((got.labels != IGNORE).sum()) < before.num_labels(0)
    assert got.sources is not None
    ce = cross_entropy(got.sources, got.document_ids, got.label_bytes, "document", "byte")
    rows = got.sources.is_aligned[0] & (got.label_bytes[0] > 0)
    nats = got.sources.nll[0].masked_fill(~rows, 0.0).sum(-1) / got.label_bytes[0].masked_fill(~rows, 0).sum(-1)
    torch.testing.assert_close(ce[0, :, 0], nats, rtol=1e-5, atol=0)


def test_of_a_conversation_the_answer_behind_the_prompt_is_learnt() -> None:
    gemma, document = chat("gemma"), conversation(SAID)
    last = document.messages[-1].num_bytes
    own = replace(document, prompt_bytes=document.num_bytes - last)
    batch = PackedBlocks([own], gemma, 256)[0]
    want = PackedBlocks([replace(document, learn="last")], gemma, 256)[0]
    assert torch.equal(batch.labels, want.labels)
    assert int(batch.label_bytes.sum()) == last
    assert len(tokens_of(gemma, own).turns or ()) == 1
