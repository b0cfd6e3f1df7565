"""What a source says, against one forward pass per document and a full log-softmax in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import ARCHITECTURES, tiny_llm
from texts_for_tests import DOCUMENTS
from tokenizers import Tokenizer, decoders, models
from tokenizers_for_tests import surface
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from knowfuse.surface import Surface, surface_of
from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.text.corpus import Document
from knowfuse.traces import reading
from knowfuse.traces.largest import largest
from knowfuse.traces.reading import length_buckets, trace_documents
from knowfuse.types import EMPTY, SourceTrace, TokenizedDocument

TOP_K = 6


def read(its: Surface) -> TokenizedDocuments:
    documents = tokenize_documents(its, DOCUMENTS, max_tokens=500)
    assert not documents.set_aside
    return documents


def traced(llm: PreTrainedModel, its: Surface, batch_tokens: int = 600) -> dict[str, SourceTrace]:
    batches = trace_documents(llm, its, read(its), TOP_K, batch_tokens)
    return {name: trace for batch in batches for name, trace in batch.items()}


def full_log_probs(llm: PreTrainedModel, tokens: TokenizedDocument) -> torch.Tensor:
    """One document alone, float64 log-softmax over every row of the head."""
    with torch.no_grad():
        return llm(input_ids=torch.from_numpy(tokens.input_ids)[None]).logits[0].double().log_softmax(-1)


@pytest.mark.parametrize(("architecture", "family"), zip(ARCHITECTURES, ["llama", "neox", "unigram"], strict=True))
def test_traces_are_the_top_of_the_full_log_softmax(architecture: str, family: str) -> None:
    """float32 and batched against float64 and alone: 1e-5 on logits of a few nats."""
    its = surface(family)
    llm = tiny_llm(architecture, its.vocabulary_size)
    traces = traced(llm, its)
    assert traces.keys() == {d.id for d in DOCUMENTS}
    for name, tokens in read(its).items():
        want, trace = full_log_probs(llm, tokens), traces[name]
        np.testing.assert_array_equal(trace.input_ids, tokens.input_ids)
        np.testing.assert_array_equal(trace.ends, tokens.ends)
        assert trace.topk.log_probs.dtype == trace.nll.dtype == np.float32
        got = torch.from_numpy(trace.topk.log_probs).double()
        torch.testing.assert_close(got, want.topk(TOP_K).values, rtol=0.0, atol=1e-5)
        torch.testing.assert_close(got, want.gather(-1, torch.from_numpy(trace.topk.ids)), rtol=0.0, atol=1e-5)
        nexts = torch.from_numpy(tokens.input_ids)[1:]
        spent = -want[:-1].gather(-1, nexts[:, None])[:, 0]
        torch.testing.assert_close(torch.from_numpy(trace.nll)[:-1].double(), spent, rtol=0.0, atol=1e-5)
        assert trace.nll[-1] == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batches_change_nothing(architecture: str) -> None:
    """All documents padded into one batch against one at a time, float32, 1e-5."""
    its = surface("llama")
    llm = tiny_llm(architecture, its.vocabulary_size)
    together, alone = traced(llm, its, batch_tokens=10_000), traced(llm, its, batch_tokens=1)
    for name, want in alone.items():
        np.testing.assert_allclose(together[name].topk.log_probs, want.topk.log_probs, rtol=0.0, atol=1e-5)
        np.testing.assert_allclose(together[name].nll, want.nll, rtol=0.0, atol=1e-5)


def test_rows_in_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 7 rows against one chunk: every row is reduced by itself; matrix products of other shapes, 1e-5."""
    its = surface("llama")
    llm = tiny_llm("llama", its.vocabulary_size)
    whole = traced(llm, its)
    monkeypatch.setattr(reading, "LOGITS_AT_ONCE", (7 * its.vocabulary_size,) * 2)
    monkeypatch.setattr(reading, "FEWEST_ROWS", 1)
    for name, trace in traced(llm, its).items():
        np.testing.assert_array_equal(trace.topk.ids, whole[name].topk.ids)
        np.testing.assert_allclose(trace.topk.log_probs, whole[name].topk.log_probs, rtol=0.0, atol=1e-5)
        np.testing.assert_allclose(trace.nll, whole[name].nll, rtol=0.0, atol=1e-5)


def test_padded_rows_of_the_head_are_never_kept_but_counted() -> None:
    """A head of 30 rows more than the vocabulary, all of them loud: no slot names one, the tail holds their mass."""
    its = surface("llama")
    llm = tiny_llm("llama", its.vocabulary_size + 30)
    with torch.no_grad():
        llm.get_output_embeddings().weight[its.vocabulary_size :] *= 20  # type: ignore[operator, union-attr]
    traces = traced(llm, its)
    for name, tokens in read(its).items():
        want, topk = full_log_probs(llm, tokens), traces[name].topk
        assert want.argmax(-1).max() >= its.vocabulary_size  # they would have been kept
        assert topk.ids.max() < its.vocabulary_size
        kept = want[:, : its.vocabulary_size].topk(TOP_K).values
        got = torch.from_numpy(topk.log_probs).double()
        torch.testing.assert_close(got, kept, rtol=1e-6, atol=1e-5)  # logits of up to about 100 here


def test_ids_without_an_entry_in_the_tokenizer_are_never_kept() -> None:
    """Ids 1 and 3 of a head of six rows stand for no token; K of all six leaves two slots empty."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 2, "c": 4, "<eos>": 5}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    its = surface_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>"), "gaps")
    llm = tiny_llm("llama", 6)
    documents = tokenize_documents(its, [Document("abcab", "code", "fusion")], 100)
    (trace,) = next(trace_documents(llm, its, documents, 6, 100)).values()
    filled = trace.topk.log_probs > EMPTY
    assert (filled.sum(-1) == 4).all()
    assert {int(i) for i in trace.topk.ids[filled]} == {0, 2, 4, 5}
    want = full_log_probs(llm, next(iter(documents.values())))[:, [0, 2, 4, 5]].exp().sum(-1)
    # The two ids keep their probability, in the tail.
    np.testing.assert_allclose(np.exp(trace.topk.log_probs).sum(-1), want, rtol=1e-5)


@pytest.mark.parametrize(("size", "k"), [(128 * 8, 8), (128 * 9 + 5, 8), (128 * 9 + 5, 64), (1500, 1), (100, 100)])
def test_the_largest_are_found_by_groups(size: int, k: int) -> None:
    """Against a full sort; some rows have all of them in one group, some in the rest that no group holds."""
    values = torch.randn(20, size, generator=torch.Generator().manual_seed(size))
    values[0, :k] += 9
    values[1, -k:] += 9
    ids, found = largest(values, k)
    want = values.sort(dim=-1, descending=True)
    assert torch.equal(found, want.values[:, :k])
    assert torch.equal(ids, want.indices[:, :k])


def test_progress_counts_the_tokens_read() -> None:
    its, counts = surface("llama"), []
    llm = tiny_llm("llama", its.vocabulary_size)
    list(trace_documents(llm, its, read(its), TOP_K, 100, advance=counts.append))
    assert len(counts) > 1
    assert sum(counts) == sum(len(t.input_ids) for t in read(its).values())


def test_more_kept_tokens_than_the_vocabulary_has() -> None:
    its = surface("llama")
    size = its.vocabulary_size
    batches = trace_documents(tiny_llm("llama", size), its, read(its), size + 1, 100)
    with pytest.raises(ValueError, match=f"top_k is {size + 1}, but source 'llama' can name {size} tokens"):
        next(batches)


def test_tokens_without_an_embedding_are_refused_by_name() -> None:
    """Before the first forward pass; a tokenizer that merely has more tokens, none of which occurs, is fine."""
    its = surface("llama")
    largest = max(int(t.input_ids.max()) for t in read(its).values())
    assert TOP_K < largest < its.vocabulary_size - 1
    llm, passes = tiny_llm("llama", largest), []
    llm.register_forward_pre_hook(lambda *_: passes.append(1))
    message = (
        f"^LLM 'llama': its tokenizer gives token id {largest}, but its model embeds only the ids below {largest}: set its "
        "`tokenizer:` to the one it was trained with, or leave it out$"
    )
    with pytest.raises(ValueError, match=message):
        traced(llm, its)
    assert not passes
    traces = traced(tiny_llm("llama", largest + 1), its)
    assert traces.keys() == {d.id for d in DOCUMENTS}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_name_source_and_document(value: float) -> None:
    """One token's embedding is broken; the one document that holds it is named."""
    its = surface("llama")
    llm, documents = tiny_llm("llama", its.vocabulary_size), read(its)
    broken = DOCUMENTS[2].id
    elsewhere = {i for name, t in documents.items() if name != broken for i in t.input_ids.tolist()}
    token = next(i for i in documents[broken].input_ids.tolist() if i not in elsewhere)
    llm.get_input_embeddings().weight.data[token] = value
    with pytest.raises(ValueError, match=f"source 'llama' returned NaN or infinite logits on document {broken}"):
        list(trace_documents(llm, its, documents, TOP_K, 600))


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_buckets_hold_every_document_once_and_keep_to_their_budget(lengths: list[int], batch_tokens: int) -> None:
    """The budget counts padding, which is a ninth at most; only a document that exceeds it alone may."""
    named = {str(n): length for n, length in enumerate(lengths)}
    batches = list(length_buckets(named, batch_tokens))
    assert sorted(d for batch in batches for d in batch) == sorted(named)
    for batch in batches:
        padded, tokens = max(named[d] for d in batch) * len(batch), sum(named[d] for d in batch)
        assert len(batch) == 1 or padded <= batch_tokens
        assert padded <= 1.125 * tokens
