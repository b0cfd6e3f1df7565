"""A conversation is aligned message by message: compared with each message aligned as a text of its own, and with the source."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from chats_for_tests import SAID, chat, conversation, tokens_of, trace_of

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.chunk_likelihood import chunk_likelihood
from knowfuse.alignment.hybrid import hybrid
from knowfuse.alignment.mapping_statistics import mapping_statistics
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.optimal_transport import optimal_transport
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.rank_matched import rank_matched
from knowfuse.alignment.turns import aligner
from knowfuse.evaluation import SeenDocument, with_own_tokenizer
from knowfuse.evaluation.alignment_quality import alignment_quality
from knowfuse.surface.turns import learnt_rows
from knowfuse.types import AlignedSource, TopK

DOCUMENT = conversation(SAID)
DATA = DOCUMENT.text.encode()
METHODS = [byte_exact, min_edit_distance, mapping_statistics, rank_matched, hybrid, chunk_likelihood]
PAIRS = [("chatml", "gemma"), ("gemma", "llama2"), ("llama2", "llama3"), ("llama3", "trims"), ("trims", "chatml")]


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("method", METHODS)
def test_only_learnt_rows_are_aligned_and_the_turn_end_goes_to_the_turn_end(source: str, target: str, method) -> None:
    pair = TokenizerPair(chat(source), chat(target), [DOCUMENT])
    tokens = tokens_of(chat(target), DOCUMENT)
    said = aligner(method, pair)(trace_of(chat(source), DOCUMENT), tokens, DATA)
    is_text, is_end = learnt_rows(tokens)
    assert not (said.is_aligned & ~(is_text | is_end)).any()
    assert said.is_aligned.any()
    assert tokens.turns is not None
    for turn in tokens.turns:
        assert turn.closes is not None
        assert said.is_aligned[turn.closes], "the row that predicts the end of the turn"
        assert not said.is_aligned[turn.last : turn.closes].any(), "a space that only the target's template has"
    if method is byte_exact:
        assert said.is_aligned[is_text].all()
        assert said.budget is not None
        np.testing.assert_allclose(said.budget[said.is_aligned].sum(-1), 1.0, atol=1e-6)
        certain = trace_of(chat(source), DOCUMENT)
        gold = np.append(certain.input_ids[1:], 0)[:, None]
        zeros = np.zeros(len(gold), np.float32)
        sure = aligner(method, pair)(replace(certain, topk=TopK(gold, zeros[:, None]), nll=zeros), tokens, DATA)
        best = np.take_along_axis(sure.topk.ids, sure.topk.log_probs.argmax(-1)[:, None], -1)[:, 0]
        rows = np.flatnonzero(sure.is_aligned)
        assert best[rows].tolist() == tokens.input_ids[rows + 1].tolist(), (
            "who knows the text says the target's own tokens"
        )


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_each_source_pays_on_the_learnt_bytes_what_it_paid(source: str, target: str) -> None:
    """The nats on text and turn ends, in the target's tokens, are the source's own over the same messages."""
    trace, tokens = trace_of(chat(source), DOCUMENT), tokens_of(chat(target), DOCUMENT)
    said = aligner(byte_exact, TokenizerPair(chat(source), chat(target)))(trace, tokens, DATA)
    is_text, is_end = learnt_rows(tokens_of(chat(source), DOCUMENT))
    theirs = trace.nll.astype(np.float64)
    closes = [turn.closes for turn in tokens_of(chat(source), DOCUMENT).turns or () if turn.closes is not None]
    is_text_here, _ = learnt_rows(tokens)
    assert said.nll[is_text_here].sum() == pytest.approx(theirs[is_text].sum(), rel=1e-5)
    assert said.nll[said.is_aligned & ~is_text_here].sum() == pytest.approx(theirs[closes].sum(), rel=1e-5)
    assert is_end[closes].all()


@pytest.mark.parametrize("learn", ["assistant", "last", "all"])
def test_an_own_tokenizer_loses_nothing_and_other_templates_little(learn) -> None:
    document = conversation(SAID, learn)
    trace, target = trace_of(chat("chatml"), document, 64), chat("llama3")
    pair = TokenizerPair(chat("chatml"), target)
    seen = [SeenDocument(trace, tokens_of(target, document), DATA)]
    assert with_own_tokenizer(byte_exact, pair, seen).loss_bits_per_byte == pytest.approx(0.0, abs=1e-6)
    quality = alignment_quality(aligner(byte_exact, pair), seen, target.usable)
    assert quality.coverage == quality.top1_fidelity == 1.0
    assert abs(quality.loss_bits_per_byte) < 1e-3, (
        "the same tokens but for the template's: the words are the source's own"
    )


def test_a_template_on_one_tokenizer_changes_no_word_on_the_messages() -> None:
    """ChatML and Llama 3's headers around the tokens of one tokenizer: the rows are those of the source, token for token."""
    trace, tokens = trace_of(chat("chatml"), DOCUMENT), tokens_of(chat("llama3"), DOCUMENT)
    as_cut = partial(byte_exact, look_ahead=False)  # random words go on as no LLM's would
    said = aligner(as_cut, TokenizerPair(chat("chatml"), chat("llama3")))(trace, tokens, DATA)
    theirs, ours = learnt_rows(tokens_of(chat("chatml"), DOCUMENT))[0], learnt_rows(tokens)[0]
    np.testing.assert_array_equal(trace.input_ids[1:][theirs[:-1]], tokens.input_ids[1:][ours[:-1]])
    gold = tokens.input_ids[np.flatnonzero(ours) + 1]
    slots = (said.topk.ids[ours] == gold[:, None]) & (said.topk.log_probs[ours] > -np.inf)
    mass = np.where(slots, np.exp(said.topk.log_probs[ours].astype(np.float64)), 0.0).sum(-1)
    assert (mass >= np.exp(-trace.nll[theirs].astype(np.float64)) - 1e-6).all()


def test_a_message_without_the_space_of_the_answers_has_no_word_on_its_first_token() -> None:
    said = conversation([("system", "be brief"), ("user", "wrap it"), ("assistant", "yes it is")], "all")
    target, source = chat("llama2"), chat("llama3")
    tokens = tokens_of(target, said)
    aligned = aligner(byte_exact, TokenizerPair(source, target))(trace_of(source, said), tokens, said.text.encode())
    assert tokens.turns is not None
    assert [bool(aligned.is_aligned[turn.first]) for turn in tokens.turns] == [False, True, True]
    assert aligned.is_aligned[tokens.turns[0].first + 1 : tokens.turns[0].last].all()


@pytest.mark.parametrize(("source", "target"), [*PAIRS, ("llama2", "llama2")])
def test_all_messages_in_one_call_are_each_in_its_own_call_bit_for_bit(source: str, target: str) -> None:
    """The same aligner, called once for the conversation and once a message, over what others say too."""
    document = conversation(SAID, "all")
    pair = TokenizerPair(chat(source), chat(target))
    trace, tokens = trace_of(chat(source), document), tokens_of(chat(target), document)
    at_once = aligner(byte_exact, pair)
    assert isinstance(at_once, partial)
    assert at_once.keywords["together"]
    told, alone = (partial(at_once, together=together)(trace, tokens, DATA) for together in (True, False))
    for one, other in zip(_arrays(told), _arrays(alone), strict=True):
        np.testing.assert_array_equal(one, other)


def _arrays(said: AlignedSource) -> list[np.ndarray]:
    assert said.budget is not None
    assert said.row_classes is not None
    rows = [said.tail, said.nll, said.source_tokens, said.is_aligned, said.budget, said.row_classes]
    return [said.topk.ids, said.topk.log_probs, *rows]


def test_the_targets_own_words_are_cut_into_the_same_messages() -> None:
    source, target = chat("gemma"), chat("chatml")
    tokens = replace(tokens_of(target, DOCUMENT), own=trace_of(target, DOCUMENT).topk)
    said = aligner(partial(optimal_transport, width=4), TokenizerPair(source, target))(
        trace_of(source, DOCUMENT), tokens, DATA
    )
    assert said.is_aligned.any()


def test_drawn_words_keep_their_counts() -> None:
    source, target = chat("chatml"), chat("llama3")
    trace = trace_of(source, DOCUMENT)
    draws = np.ones((len(trace.ends), 7), dtype=np.int64)
    drawn = replace(trace, draws=draws)
    align = aligner(partial(byte_exact, rows="shared"), TokenizerPair(source, target))
    assert align(drawn, tokens_of(target, DOCUMENT), DATA).is_aligned.any()
