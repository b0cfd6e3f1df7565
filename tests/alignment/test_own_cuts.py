"""The target's own cut of what it reads and what a source says next: asked once, and the same whatever was asked before."""

import numpy as np
import pytest
from tokenizers_for_tests import LOSSLESS, random_trace, surface

from knowfuse.alignment import own_cuts
from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.first_tokens import FirstTokens, first_tokens
from knowfuse.alignment.longer import Longer, longer, walk
from knowfuse.alignment.own_cuts import OwnCuts, own_cut
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.text.document import Document
from knowfuse.types import AlignedSource

CODE = "def wrap(text):\n    return text\n\n\ndef both(a, b):\n        return a  +  b\n"
TEXTS = [CODE, "the text of the others", "x = \u65e5\u672c", CODE[::-1]]


def pair_of(source: str, target: str) -> TokenizerPair:
    return TokenizerPair(surface(source), surface(target), [Document(text, "any", "fusion") for text in TEXTS])


def aligned(pair: TokenizerPair, texts: list[str]) -> list[AlignedSource]:
    align = byte_exact(pair)
    traces = [random_trace(pair.source, text, 12, len(text)) for text in texts]
    return [align(t, pair.target.tokenize(x), x.encode()) for t, x in zip(traces, texts, strict=True)]


def node_of(its: Longer, tokens: FirstTokens, piece: bytes) -> int:
    made = tokens._replace(starts=np.array([0, len(piece)]), pieces=np.frombuffer(piece, dtype=np.uint8))
    return walk(its, made, 0, 0, 0)[0]


@pytest.mark.parametrize("target", LOSSLESS)
def test_the_tokenizer_is_asked_once_and_its_answer_is_given(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more pairs than there is room for at first."""
    monkeypatch.setattr(own_cuts, "ROOM", 16)
    source = next(name for name in LOSSLESS if name != target)
    pair = pair_of(source, target)
    tokens = first_tokens(pair)
    its = longer(pair, tokens)
    cuts, size = OwnCuts(pair.target, tokens, its), pair.source.vocabulary_size
    read = [piece for i in pair.target.tokenize(CODE).input_ids if (piece := pair.target.token_bytes[i])]
    follow = [i for i in pair.source.tokenize(CODE).input_ids.tolist() if pair.source.token_bytes[i]]
    asked = {
        (node, i): piece + (pair.source.token_bytes[i] or b"")
        for piece in read
        for node in [node_of(its, tokens, piece)]
        for i in follow
    }
    longest = -7
    rounds, got = 0, []
    while rounds == 0 or cuts.ask():
        rounds += 1
        got = [own_cut(cuts.known, node * size + i, longest) for node, i in asked]
    assert rounds > 2
    want = pair.target.first_tokens(list(asked.values()), at_start=False)
    assert got == [longest if token < 0 else token for token in want.tolist()]
    assert len(asked) > 16
    assert len(cuts.known.pairs) >= 2 * len(asked)


@pytest.mark.parametrize(("source", "target"), [(LOSSLESS[0], LOSSLESS[1]), (LOSSLESS[1], LOSSLESS[2])])
def test_what_is_aligned_does_not_depend_on_what_was_asked_before(
    source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pair_of(source, target)
    alone = [aligned(pair, [text])[0] for text in TEXTS]
    monkeypatch.setattr(own_cuts, "ROOM", 16)
    for one, other in zip(alone, reversed(aligned(pair, TEXTS[::-1])), strict=True):
        np.testing.assert_array_equal(one.topk.ids, other.topk.ids)
        np.testing.assert_array_equal(one.topk.log_probs, other.topk.log_probs)
        np.testing.assert_array_equal(one.tail, other.tail)
