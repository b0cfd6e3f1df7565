"""What does an alignment method know of the two tokenizers it works between?"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from knowfuse.surface import Surface, UnspellableDocument
from knowfuse.text.document import Document
from knowfuse.types import TokenizedDocument

Arrays: TypeAlias = dict[str, np.ndarray]
Keep: TypeAlias = Callable[[str, Callable[[], Arrays]], Arrays]


def make_each_time(name: str, make: Callable[[], Arrays]) -> Arrays:
    """Keeps nothing."""
    return make()


@dataclass
class TokenizerPair:
    """A source's tokenizer and the target's, and the training documents that both cut.

    `others` are the tokenizers of the run's other sources. `keep` gives the arrays of that name, made by its second argument where they are not there yet; a run keeps them on
    disk.
    """

    source: Surface
    target: Surface
    documents: Sequence[Document] = ()
    keep: Keep = make_each_time
    others: Sequence[Surface] = ()

    def kept(self, kind: str, make: Callable[[], Arrays], *depends_on: str) -> Arrays:
        """The arrays of this kind for these two tokenizers, and for whatever else they depend on."""
        tokenizers = [[its.fingerprint, its.usable] for its in (self.source, self.target)]
        state = json.dumps([tokenizers, *depends_on])
        return self.keep(f"{kind}-{hashlib.sha256(state.encode()).hexdigest()[:24]}", make)

    def cut(self, documents: Iterable[Document]) -> Iterator[tuple[TokenizedDocument, TokenizedDocument]]:
        """Each text of these documents, of a conversation each message, in the source's tokens and in the target's.

        Those that one of the two cannot spell are left out.
        """
        for document in documents:
            for text in document.contents:
                try:
                    yield self.source.tokenize(text), self.target.tokenize(text)
                except UnspellableDocument:
                    continue
