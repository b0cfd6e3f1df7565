"""Bits per byte against one document at a time, in float64."""

import io
import math

import pytest
import torch
from models_for_tests import tiny_llm
from rich.console import Console
from tokenizers_for_tests import surface

from knowfuse import progress, screen
from knowfuse.evaluation import DocumentScores, by_document, oracle, score_documents, score_table
from knowfuse.text.corpus import Document

DOCUMENTS = [
    Document("A short one.", "docs", "test"),
    Document("def wrap(text, width=70):\n    return width", "code", "test"),
    Document("h\u00e9llo \u20ac \U0001f600", "docs", "test"),
    Document("a piece that is cut", "docs", "test", is_complete=False),
]


def scores(**nats: float) -> DocumentScores:
    return DocumentScores({d.id: float(nats[key]) for key, d in zip("abcd", DOCUMENTS, strict=True) if key in nats}, {})


@pytest.mark.parametrize(("architecture", "family"), [("llama", "llama"), ("mpt", "neox")])
@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_nats_against_one_document_at_a_time(architecture: str, family: str, batch_tokens: int) -> None:
    """Every token after BOS is paid for; the EOS of a complete document apart. float32 sums: 1e-5 relative."""
    its = surface(family)
    llm = tiny_llm(architecture, its.vocabulary_size)
    got = score_documents(llm, its, DOCUMENTS, max_tokens=500, batch_tokens=batch_tokens)
    assert not got.set_aside
    for document in DOCUMENTS:
        ids = torch.from_numpy(its.tokenize(document.text, document.is_complete).input_ids)
        assert (ids[-1] == its.eos_id) == document.is_complete
        with torch.no_grad():
            log_probs = llm(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        paid = [-float(log_probs[t, ids[t + 1]]) for t in range(len(ids) - 1)]
        eos = [paid.pop()] if document.is_complete else []
        assert got.nats[document.id] == pytest.approx(sum(paid), rel=1e-5)
        assert got.first_nats[document.id] == pytest.approx(paid[0], rel=1e-5)
        assert (document.id in got.eos_nats) == document.is_complete
        assert got.eos_nats.get(document.id, 0.0) == pytest.approx(sum(eos), rel=1e-5)


def test_a_uniform_llm_pays_the_log_of_its_vocabulary_per_token() -> None:
    its = surface("llama")
    llm = tiny_llm("llama", its.vocabulary_size)
    llm.get_output_embeddings().weight.data.zero_()
    nats = score_documents(llm, its, DOCUMENTS, 500, 100).nats
    for domain, bits in by_document({"llm": nats}, DOCUMENTS).bits_per_byte("llm").items():
        texts = [d for d in DOCUMENTS if d.domain == domain]
        tokens = sum(len(its.tokenize(d.text, d.is_complete).input_ids) - 1 - d.is_complete for d in texts)
        want = tokens * math.log2(its.vocabulary_size) / sum(len(d.text.encode()) for d in texts)
        assert bits == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("was_training", [True, False])
def test_the_llm_is_scored_without_dropout_and_left_as_it_was(was_training: bool) -> None:
    its = surface("llama")
    llm = tiny_llm("llama", its.vocabulary_size).train(was_training)
    llm.model.layers[0].self_attn.attention_dropout = 0.9
    one, other = (score_documents(llm, its, DOCUMENTS, 500, 100).nats for _ in range(2))
    assert one == other
    assert llm.training is was_training


def test_documents_that_cannot_be_read_are_set_aside_with_the_reason() -> None:
    its = surface("llama")
    got = score_documents(tiny_llm("llama", its.vocabulary_size), its, DOCUMENTS, max_tokens=18, batch_tokens=100)
    long = DOCUMENTS[1].id
    assert got.nats.keys() == {d.id for d in DOCUMENTS} - {long}
    assert got.set_aside[long].endswith("tokens, 'llama' can hold 18")


def test_tokens_without_an_embedding_are_refused_by_name() -> None:
    """Before the first forward pass; a tokenizer that merely has more tokens, none of which occurs, is fine."""
    its = surface("llama")
    largest = max(int(its.tokenize(d.text, d.is_complete).input_ids.max()) for d in DOCUMENTS)
    assert largest < its.vocabulary_size - 1
    llm, passes = tiny_llm("llama", largest), []
    llm.register_forward_pre_hook(lambda *_: passes.append(1))
    message = (
        f"^LLM 'llama': its tokenizer gives token id {largest}, but its model embeds only the ids below {largest}: set"
    )
    with pytest.raises(ValueError, match=message):
        score_documents(llm, its, DOCUMENTS, 500, 100)
    assert not passes
    assert len(score_documents(tiny_llm("llama", largest + 1), its, DOCUMENTS, 500, 100).nats) == len(DOCUMENTS)


def test_the_table_is_over_the_documents_that_all_can_read() -> None:
    """By hand: code is b of 42 bytes, docs are a and c of 12 and 15; d is read by one LLM only."""
    sizes = [d.num_bytes for d in DOCUMENTS]
    assert sizes[:3] == [12, 42, 15]
    table = score_table({"one": scores(a=12, b=42, c=15), "two": scores(a=24, b=21, c=30, d=5)}, DOCUMENTS)
    bit = 1 / math.log(2)
    assert table.domains == ["code", "docs"]
    assert table.rows["one"] == pytest.approx({"code": bit, "docs": bit})
    assert table.rows["two"] == pytest.approx({"code": bit / 2, "docs": 2 * bit})
    assert table.left_out == 1
    assert table.mean("two") == pytest.approx(1.25 * bit)  # domains weigh the same, whatever their bytes


def test_eos_and_first_token_stand_beside_the_table_as_means_over_its_documents() -> None:
    """The EOS of d, which one LLM alone can read, is no part of it; c has none."""
    a, b, c, d = (document.id for document in DOCUMENTS)
    one = DocumentScores(
        {a: 12.0, b: 42.0, c: 15.0, d: 9.0}, {}, {a: 8.0, b: 4.0, d: 100.0}, {a: 3.0, b: 6.0, c: 9.0, d: 1.0}
    )
    table = score_table({"one": one, "two": scores(a=1, b=1, c=1)}, DOCUMENTS)
    assert table.set_aside == {}
    assert table.eos_nats == {"one": 6.0}
    assert table.first_nats == {"one": 6.0}
    assert table.rows["one"]["docs"] == pytest.approx(27.0 / (27 * math.log(2)))


def test_the_table_says_why_documents_are_left_out() -> None:
    """Each LLM's own reasons, of these documents alone, in their order."""
    a, b, *_ = (document.id for document in DOCUMENTS)
    two = DocumentScores(scores(c=1, d=2).nats, {b: "too long", a: "misspelt", "another": "of another split"})
    table = score_table({"one": scores(a=1, b=2, c=3, d=4), "two": two}, DOCUMENTS)
    assert table.left_out == 2
    assert table.set_aside == {"two": ["misspelt", "too long"]}


def test_without_a_document_that_all_can_read_nothing_compares() -> None:
    with pytest.raises(ValueError, match=r"of 4 documents each can read \{'one': 1, 'two': 2\}: leave out the LLM"):
        score_table({"one": scores(a=12), "two": scores(b=21, c=30)}, DOCUMENTS)


def test_the_oracle_pays_the_least_on_each_shared_document() -> None:
    got = oracle({"one": scores(a=3, b=2, c=1), "two": scores(a=1, b=5, d=1)})
    assert got == scores(a=1, b=2)
    assert oracle({"one": scores(a=3, b=2)}) == scores(a=3, b=2)
    a = DOCUMENTS[0].id
    text, eos = DocumentScores({a: 3.0}, {}, {a: 20.0}, {a: 2.0}), DocumentScores({a: 4.0}, {}, {a: 1.0}, {a: 1.0})
    assert oracle({"text": text, "eos": eos}) == text, "by its text, and with what that LLM pays for the rest"


def test_nats_that_are_not_finite_are_an_error_with_the_llm_and_the_document() -> None:
    its = surface("llama")
    llm = tiny_llm("llama", its.vocabulary_size)
    llm.get_output_embeddings().weight.data.fill_(torch.nan)
    with (
        pytest.warns(UserWarning, match="the logits of a batch are made at once"),
        pytest.raises(ValueError, match=rf"LLM 'llama' gives the text of document {DOCUMENTS[0].id} NaN .* dtype"),
    ):
        score_documents(llm, its, DOCUMENTS[:1], max_tokens=500, batch_tokens=100)


def test_scoring_says_how_far_it_is_and_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of a log are those of its pulse: a document a minute."""
    log = io.StringIO()
    console = Console(file=log, width=140)
    for room in (progress, screen):
        monkeypatch.setattr(room, "console", console)
    now = iter(range(0, 10_000, 60))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    its = surface("llama")
    score_documents(tiny_llm("llama", its.vocabulary_size), its, DOCUMENTS, 500, 8)
    lines = log.getvalue().splitlines()
    assert [line.partition(" of ")[0].rpartition(":")[0] for line in lines] == ["scores llama"] * len(DOCUMENTS)
    assert "(100%)" in lines[-1]
