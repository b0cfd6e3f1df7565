"""Nats on indentation and numerals, against a walk over the bytes, one at a time."""

import math

import numpy as np
import pytest
from models_for_tests import tiny_llm
from tokenizers_for_tests import surface

from knowfuse.evaluation import score_documents, score_table
from knowfuse.evaluation.byte_classes import nats_by_class
from knowfuse.text.document import Document

TEXTS = [
    "def f(x):\n    return x + 12\n\n\tif 3.14:\n        \n  pass # 7",
    "   no line begins here\n",
    "\n \n\t x",
    "1234 and 5é6\r\n   \r\n  y",
    "",
]


def slow(ends: list[int], nats: list[float], data: bytes) -> dict[str, tuple[int, float]]:
    """Each byte's nats: those of the tokens that begin where its token begins, over that token's bytes."""
    each, waiting = [0.0] * len(data), 0.0
    for begin, end, paid in zip(ends[:-1], ends[1:], nats, strict=False):
        waiting += paid
        for byte in range(begin, end):
            each[byte] = waiting / (end - begin)
        waiting = waiting if end == begin else 0.0
    found = {"indentation": [], "numerals": []}
    for byte, value in enumerate(data):
        if chr(value) in "0123456789":
            found["numerals"].append(byte)
        begin = byte
        while begin > 0 and chr(data[begin - 1]) in " \t":
            begin -= 1
        end = byte
        while end < len(data) and chr(data[end]) in " \t":
            end += 1
        is_at_beginning = begin > 0 and data[begin - 1] == ord("\n")
        if chr(value) in " \t" and is_at_beginning and end < len(data) and chr(data[end]) not in "\r\n":
            found["indentation"].append(byte)
    return {name: (len(places), sum(each[place] for place in places)) for name, places in found.items()}


@pytest.mark.parametrize("family", ["neox", "llama", "unigram"])
@pytest.mark.parametrize("text", TEXTS)
def test_nats_of_a_class_are_those_of_its_bytes(family: str, text: str) -> None:
    tokens = surface(family).tokenize(text, is_complete=False)
    nats = np.random.default_rng(0).exponential(2.0, len(tokens.ends) - 1)
    found = nats_by_class(tokens.ends, nats, text.encode())
    want = slow(tokens.ends.tolist(), nats.tolist(), text.encode())
    for name, (size, paid) in want.items():
        assert found[name][0] == size
        assert found[name][1] == pytest.approx(paid, rel=1e-9, abs=1e-12)


def test_the_table_has_bits_per_byte_of_each_class() -> None:
    """Of two LLMs over the same documents: sums over these, and no class that no document has."""
    documents = [Document(text, "code", "test") for text in TEXTS[:2]]
    scores = {
        name: score_documents(
            tiny_llm("llama", surface(name).vocabulary_size), surface(name), documents, 200, 400, by_class=True
        )
        for name in ("neox", "llama")
    }
    table = score_table(scores, documents)
    for name, mine in scores.items():
        for kind in ("indentation", "numerals"):
            sizes, nats = zip(*(mine.by_class[d.id][kind] for d in documents), strict=True)
            assert table.by_class[name][kind] == pytest.approx(sum(nats) / sum(sizes) / math.log(2), rel=1e-12)
        assert mine.by_class.keys() == mine.nats.keys()
    assert not score_table(
        {
            "neox": score_documents(
                tiny_llm("llama", surface("neox").vocabulary_size), surface("neox"), documents, 200, 400
            )
        },
        documents,
    ).by_class
    words = [Document("no such byte", "code", "test")]
    llm = tiny_llm("llama", surface("neox").vocabulary_size)
    assert score_table(
        {"neox": score_documents(llm, surface("neox"), words, 200, 400, by_class=True)}, words
    ).by_class == {"neox": {}}
