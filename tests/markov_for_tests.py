"""Toy tokenizers, and all texts of a few letters with their probabilities: what a source that knows them would say, exactly."""

import itertools
from collections import defaultdict
from functools import cache

import numpy as np
from tokenizers_for_tests import toy_surface

from knowfuse.surface import Surface
from knowfuse.types import EMPTY, AlignedSource, SourceTrace, TopK

LENGTH = 6
TOY_SOURCES = {
    "characters and pairs": (["a", "b", "c", "ab", "bc", "ca"], [("a", "b"), ("b", "c"), ("c", "a")]),
    "characters": (["a", "b", "c"], []),
    "nested": (["a", "b", "c", "ab", "abc"], [("a", "b"), ("ab", "c")]),
}
TOY_TARGETS = {
    "longer": (["a", "b", "c", "bc", "abc", "ca"], [("b", "c"), ("a", "bc"), ("c", "a")]),
    "characters": (["a", "b", "c"], []),
    "others": (["a", "b", "c", "ca", "cab"], [("c", "a"), ("ca", "b")]),
}


@cache
def toy(kind: str, name: str) -> Surface:
    return toy_surface(*(TOY_SOURCES if kind == "source" else TOY_TARGETS)[name], name=f"{kind} {name}")


@cache
def texts(seed: int) -> dict[str, float]:
    """All texts of `LENGTH` letters and their probabilities, by a Markov chain over the last two letters."""
    draw = np.random.default_rng(seed)
    follows = {pair: draw.dirichlet(np.ones(3)) for pair in itertools.product(range(3), repeat=2)}
    found = {}
    for letters in itertools.product(range(3), repeat=LENGTH):
        steps = (follows[letters[i - 2], letters[i - 1]][letters[i]] for i in range(2, LENGTH))
        found["".join("abc"[i] for i in letters)] = float(np.prod([1 / 9, *steps]))
    return found


class Exact:
    """What follows each beginning of a text in a tokenizer's tokens, summed over all texts."""

    def __init__(self, surface: Surface, seed: int) -> None:
        self.surface, self.weights = surface, defaultdict[tuple[int, ...], float](float)
        self.cut = {text: tuple(surface.tokenize(text).input_ids.tolist()) for text in texts(seed)}
        for text, probability in texts(seed).items():
            for n in range(1, len(self.cut[text]) + 1):
                self.weights[self.cut[text][:n]] += probability

    def next(self, read: tuple[int, ...]) -> np.ndarray:
        """Probabilities [V] of the token after those read."""
        said = np.array([self.weights.get((*read, i), 0.0) for i in range(self.surface.vocabulary_size)])
        return said / said.sum()

    def trace(self, text: str) -> SourceTrace:
        """The trace of the text, the whole vocabulary kept."""
        tokens = self.surface.tokenize(text)
        rows = [self.next(self.cut[text][:n]) for n in range(1, len(tokens.ends))]
        probs = np.array([*rows, np.zeros(self.surface.vocabulary_size)])
        with np.errstate(divide="ignore"):
            log_probs = np.log(probs).astype(np.float32)
        gold = log_probs[np.arange(len(rows)), tokens.input_ids[1:]]
        ids = np.tile(np.arange(self.surface.vocabulary_size), (len(probs), 1))
        return SourceTrace(tokens.input_ids, tokens.ends, TopK(ids, log_probs), np.append(-gold, np.float32(0)))


@cache
def exact(kind: str, name: str, seed: int) -> Exact:
    return Exact(toy(kind, name), seed)


def dense(aligned: AlignedSource, vocabulary_size: int) -> np.ndarray:
    """Probabilities [T, V] of the filled slots."""
    probs = np.zeros((len(aligned.nll), vocabulary_size))
    row, slot = np.nonzero(aligned.topk.log_probs > EMPTY)
    np.add.at(probs, (row, aligned.topk.ids[row, slot]), np.exp(aligned.topk.log_probs[row, slot], dtype=np.float64))
    return probs
