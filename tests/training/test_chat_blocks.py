"""Blocks of conversations: what is labelled, what counts bytes, and on which rows the sources speak."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chats_for_tests import SAID, Said, chat, conversation, tokens_of, trace_of

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.turns import aligner
from knowfuse.fusion.cross_entropy import cross_entropy
from knowfuse.traces.manifest import TraceKey
from knowfuse.traces.store import TraceStore
from knowfuse.training.blocks import PackedBlocks, SourceReader
from knowfuse.training.data import FusionDataModule
from knowfuse.types import IGNORE

OTHER: Said = [("user", "so?"), ("assistant", "return text")]


@pytest.mark.parametrize("learn", ["assistant", "last", "all"])
def test_labels_bytes_and_sources_are_of_what_is_learnt(tmp_path: Path, learn: Any) -> None:
    documents = [conversation(said, learn) for said in (SAID, OTHER)]
    source, target = chat("chatml"), chat("gemma")
    store = TraceStore(tmp_path, TraceKey("chatml", "random", source.fingerprint, top_k=8))
    store.write({d.id: trace_of(source, d) for d in documents})
    reader = SourceReader(store, aligner(byte_exact, TokenizerPair(source, target)))
    blocks = PackedBlocks(documents, target, 256, [reader])
    batch = blocks[0]
    which = {"assistant": slice(1, None, 2), "last": slice(-1, None), "all": slice(None)}[learn]
    learnt = sum(message.num_bytes for d in documents for message in d.messages[which])
    is_labelled = batch.labels != IGNORE
    assert int(batch.label_bytes.sum()) == learnt
    assert not batch.label_bytes[~is_labelled].any()
    assert blocks.num_labels(0) == int(is_labelled.sum())
    following = batch.input_ids.roll(-1, 1)
    assert torch.equal(batch.labels[is_labelled], following[is_labelled])
    ends = batch.labels[is_labelled & (batch.label_bytes == 0)]
    assert ends.tolist() == [target.eos_id] * len(ends)
    assert len(ends) == (2 if learn == "last" else 3)
    assert batch.sources is not None
    assert torch.equal(batch.sources.is_aligned[:, 0], is_labelled), "byte_exact speaks on every row that is learnt"
    ce = cross_entropy(batch.sources, batch.document_ids, batch.label_bytes, "document", "byte")
    for number, document in enumerate(
        sorted(documents, key=lambda d: -len(d.text)), 1
    ):  # a longer document comes first in its block
        theirs, turns = trace_of(source, document), tokens_of(source, document).turns or ()
        rows = np.concatenate([np.arange(t.first, t.last) for t in turns])
        want = theirs.nll[rows].astype(np.float64).sum() / sum(t.end - t.begin for t in turns)
        assert float(ce[0, 0][batch.document_ids[0] == number][0]) == pytest.approx(want, rel=2e-3), "nats have 16 bits"


def test_a_target_whose_template_refuses_every_conversation_says_so() -> None:
    refused = [conversation([("system", "be brief"), ("user", f"{n}?"), ("assistant", "yes")]) for n in range(3)]
    message = (
        r"target 'gemma' can read none of the 3 training documents; the first, [0-9a-f]{24}: its chat template refuses .* System role "
        r"not supported\. Set target= to another LLM, set its `chat_template:` to one that keeps the conversations as they are"
    )
    with pytest.raises(ValueError, match=message):
        FusionDataModule(refused, refused, chat("gemma"), block_tokens=64, batch_blocks=1, max_document_tokens=32)
