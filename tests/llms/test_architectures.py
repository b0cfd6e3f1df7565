"""Of every architecture: what the LLM says of a document depends on that document alone, as a target and as a source."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures_for_tests import ONE_DOCUMENT, PACKED, tiny
from experiments_for_tests import documents
from tokenizers_for_tests import llama, surface
from torch import Tensor
from transformers import PreTrainedModel

from knowfuse.evaluation import score_documents
from knowfuse.export import export
from knowfuse.llms.head import OutputHead, hidden_states, output_head, packed_hidden_states
from knowfuse.llms.isolation import Packing, length_borders, require_read_alone
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.losses import fused_linear_loss
from knowfuse.traces.reading import trace_documents
from knowfuse.training.blocks import PackedBlocks, collate
from knowfuse.types import IGNORE, FusionBatch, LLMSpec

ALL: dict[str, Packing] = dict.fromkeys(PACKED, "blocks") | dict.fromkeys(ONE_DOCUMENT, "one_document")
V = len(llama())
BLOCK_TOKENS = 128
# Float32 sums in another order: of the largest logit, and of a gradient's norm.
CLOSE, GRADIENTS_CLOSE = 1e-5, 1e-4
TEXTS = documents(9, max_bytes=120)


@pytest.fixture(scope="module", params=ALL)
def llm(request: pytest.FixtureRequest) -> tuple[str, PreTrainedModel, OutputHead]:
    model = tiny(request.param, V)
    return request.param, model, output_head(model, V)


def batch(name: str) -> FusionBatch:
    return batch_of(ALL[name])


@cache
def batch_of(packing: Packing) -> FusionBatch:
    """Two blocks, whose documents are longer than all windows, with padding at the ends."""
    blocks = PackedBlocks(TEXTS, surface("llama"), BLOCK_TOKENS, packing=packing)
    made = collate([blocks[0], blocks[1]])
    assert (made.document_ids == 0).any()
    return made


def documents_in(rows: FusionBatch) -> list[tuple[int, slice]]:
    """Row of the batch and places of each document."""
    found = []
    for b, numbers in enumerate(rows.document_ids):
        for number in range(1, int(numbers.max()) + 1):
            places = (numbers == number).nonzero()[:, 0]
            found.append((b, slice(int(places[0]), int(places[-1]) + 1)))
    return found


def read(name: str, model: PreTrainedModel, head: OutputHead, rows: FusionBatch) -> Tensor:
    """Hidden states [B, T, H] as training has them."""
    if ALL[name] == "one_document":
        return hidden_states(model, head, rows.input_ids)
    return packed_hidden_states(model, head, rows.input_ids, rows.position_ids, rows.document_ids)


def test_a_batch_is_read_as_each_document_alone(llm: tuple[str, PreTrainedModel, OutputHead]) -> None:
    """Logits against a plain forward of each document, in evaluation and in training mode."""
    name, model, head = llm
    rows, weight = batch(name), head.linear().weight
    places = documents_in(rows)
    assert max(place.stop - place.start for _, place in places) > 3 * 8, "beyond every window and chunk"
    for mode in (True, False):
        model.train(mode)
        with torch.no_grad():
            logits = read(name, model, head, rows) @ weight.T
            for b, place in places:
                alone = hidden_states(model, head, rows.input_ids[b, place][None])[0] @ weight.T
                assert alone.std() > 0.02
                torch.testing.assert_close(logits[b, place], alone, rtol=0, atol=CLOSE * float(alone.abs().max()))


def test_the_check_at_the_start_of_a_fit_knows_which_can_be_packed(
    llm: tuple[str, PreTrainedModel, OutputHead],
) -> None:
    name, model, head = llm
    require_read_alone(model, head, ALL[name], BLOCK_TOKENS, 60)
    if ALL[name] == "one_document":
        with pytest.raises(ValueError, match=rf"{type(model).__name__} does not read .*: set packing=one_document"):
            require_read_alone(model, head, "blocks", BLOCK_TOKENS, 60)


def test_a_step_learns_what_the_documents_alone_would(llm: tuple[str, PreTrainedModel, OutputHead]) -> None:
    """Loss and gradient against those of each document by transformers' own loss, each weighing by its labels."""
    name, model, head = llm
    rows = batch(name)
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train().zero_grad()
    loss = fused_linear_loss(
        read(name, model, head, rows).flatten(0, 1),
        head.linear(),
        rows.labels.flatten(),
        None,
        lm_weight=1.0,
    ).total
    loss.backward()
    packed = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
    model.zero_grad()
    count = int((rows.labels != IGNORE).sum())
    want = torch.zeros(())
    for b, place in documents_in(rows):
        ids = rows.input_ids[b, place][None]
        nats = torch.nn.functional.cross_entropy(
            model(input_ids=ids, use_cache=False).logits[0, :-1], ids[0, 1:], reduction="sum"
        )
        (nats / count).backward()
        want = want + nats.detach() / count
    alone = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
    model.zero_grad()
    model.eval()
    torch.testing.assert_close(loss.detach(), want, rtol=1e-5, atol=0)
    assert float((packed - alone).norm() / alone.norm()) < GRADIENTS_CLOSE


def test_a_trace_and_a_score_depend_on_the_document_alone(llm: tuple[str, PreTrainedModel, OutputHead]) -> None:
    """In batches of one against batches of documents of other lengths."""
    _, model, _ = llm
    tokens = {d.id: surface("llama").tokenize(d.text, d.is_complete) for d in TEXTS}
    alone, together = (
        {d: trace for part in trace_documents(model, surface("llama"), tokens, 8, n) for d, trace in part.items()}
        for n in (1, 4096)
    )
    for d in tokens:
        largest = float(np.abs(alone[d].topk.log_probs).max())
        np.testing.assert_allclose(together[d].topk.log_probs, alone[d].topk.log_probs, rtol=0, atol=CLOSE * largest)
        np.testing.assert_allclose(together[d].nll, alone[d].nll, rtol=0, atol=CLOSE * float(alone[d].nll.max()))
    one, all_ = (score_documents(model, surface("llama"), TEXTS, 256, n).nats for n in (1, 4096))
    assert one == pytest.approx(all_, rel=CLOSE)


def test_an_exported_target_says_the_same(llm: tuple[str, PreTrainedModel, OutputHead], tmp_path: Path) -> None:
    """Bit for bit, once it has read packed blocks; the folder is an LLM like others."""
    name, model, head = llm
    with torch.no_grad():
        read(name, model, head, batch(name))
    llama().save_pretrained(tmp_path / "tokenizer")
    export(model, LocalLLM(name, LLMSpec(path=str(tmp_path / "tokenizer")), name), tmp_path / "exported")
    loaded = localize(name, LLMSpec(path=str(tmp_path / "exported")))
    again = loaded.load()
    ids = batch(name).input_ids[:, :40]
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert type(again) is type(model)
    assert not length_borders(loaded.config())
    assert loaded.context_length() >= 256
