"""What is shown of a document is what the aligner said of it."""

from itertools import pairwise

import numpy as np
import pytest
from chats_for_tests import SAID, chat, conversation, tokens_of, trace_of
from tokenizers_for_tests import random_trace, surface

from knowfuse.align_report.example import example_of
from knowfuse.align_report.page import alignment_page
from knowfuse.align_report.picture import picture
from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.turns import aligner
from knowfuse.evaluation import SeenDocument
from knowfuse.evaluation.alignment_quality import alignment_quality
from knowfuse.pages import MARKER_COLOUR

TEXT = "def wrap(text):\n\treturn <s> 🙂"


@pytest.mark.parametrize(("source", "target"), [("neox", "llama"), ("llama", "neox"), ("unigram", "gemma")])
def test_pieces_rows_and_masses(source: str, target: str) -> None:
    align = byte_exact(TokenizerPair(surface(source), surface(target)))
    document = SeenDocument(random_trace(surface(source), TEXT, 8), surface(target).tokenize(TEXT), TEXT.encode())
    example = example_of(align, document, surface(source), surface(target))
    aligned = align(document.trace, document.target, document.data)
    assert aligned.budget is not None
    assert "".join(piece.text for piece in example.source_pieces if "\\x" not in piece.text).startswith(
        "def·wrap(text)"
    )
    for pieces in (example.source_pieces, example.target_pieces):
        assert pieces[0].begin == 0
        assert all(a.end == b.begin for a, b in pairwise(pieces))
        assert pieces[-1].end == len(document.data)
    for t, piece in enumerate(example.target_pieces):
        assert list(piece.budget.values()) == aligned.budget[t].tolist()
        assert piece.served_by is not None
        end = document.trace.ends[piece.served_by]
        assert end <= piece.begin
        assert all(not end < other <= piece.begin for other in document.trace.ends[:-1])
        label = document.target.input_ids[t + 1]
        slots = np.flatnonzero(aligned.topk.ids[t] == label)
        want = np.exp(aligned.topk.log_probs[t][slots], dtype=np.float64).sum()
        assert piece.probability == pytest.approx(want, rel=1e-6)
        assert [p for _, p in piece.best] == sorted((p for _, p in piece.best), reverse=True)


def test_markers_of_chat_templates_are_their_own_class_in_page_and_picture() -> None:
    source, target, document = chat("chatml"), chat("gemma"), conversation(SAID)
    trace, tokens = trace_of(source, document), tokens_of(target, document)
    align = aligner(byte_exact, TokenizerPair(source, target))
    seen = SeenDocument(trace, tokens, document.text.encode())
    example, quality = example_of(align, seen, source, target), alignment_quality(align, [seen], target.usable)
    assert tokens.turns is not None
    for pieces, ends in ((example.source_pieces, trace.ends), (example.target_pieces, tokens.ends)):
        assert len(pieces) == len(ends) - 1, "all tokens but the first"
        assert [p.is_marker for p in pieces] == (np.diff(ends) == 0).tolist()
        assert b"".join(seen.data[p.begin : p.end] for p in pieces) == seen.data
    closes = [turn.closes for turn in tokens.turns]
    shown = [row for row, piece in enumerate(example.target_pieces) if piece.is_marker and piece.served_by is not None]
    assert shown == closes, "of the markers the ends of the turns alone are aligned"
    assert example.target_pieces[shown[0]].text == "<end_of_turn>"
    assert source.eos_id is not None
    served = [example.target_pieces[row].served_by for row in shown]
    assert [trace.input_ids[row + 1] for row in served if row is not None] == [source.eos_id] * len(closes)
    found = quality.markers
    assert found is not None
    assert (found.turn_ends, found.coverage, found.top1_fidelity) == (len(closes), 1.0, 1.0)
    assert found.share == pytest.approx((1 + (np.diff(tokens.ends) == 0).sum()) / len(tokens.ends))
    written = alignment_page({"chatml": {"byte_exact": quality}}, [example])
    assert "What the chat templates add" in written
    num_markers = sum(p.is_marker for p in (*example.source_pieces, *example.target_pieces))
    assert written.count(f"3px solid {MARKER_COLOUR}") == num_markers
    drawn = picture({"chatml": {"byte_exact": quality}}, [example]).axes[-1]
    assert [line.get_color() for line in drawn.get_lines()].count(MARKER_COLOUR) > 0
    assert "markers of the chat template" in drawn.get_title(loc="left")


def test_plain_texts_have_no_markers() -> None:
    document = SeenDocument(random_trace(surface("neox"), TEXT, 8), surface("llama").tokenize(TEXT), TEXT.encode())
    align = byte_exact(TokenizerPair(surface("neox"), surface("llama")))
    quality = alignment_quality(align, [document], len(surface("llama").token_bytes))
    example = example_of(align, document, surface("neox"), surface("llama"))
    assert quality.markers is None
    assert not any(p.is_marker for p in (*example.source_pieces, *example.target_pieces))
    assert MARKER_COLOUR not in alignment_page({"neox": {"byte_exact": quality}}, [example])
