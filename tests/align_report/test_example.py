"""What is shown of a document is what the aligner said of it."""

from itertools import pairwise

import numpy as np
import pytest
from tokenizers_for_tests import random_trace, surface

from knowfuse.align_report.example import example_of
from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.evaluation import SeenDocument

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
