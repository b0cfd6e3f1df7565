"""Where do several texts begin that are aligned in one call, as the messages of a conversation are?"""

import inspect
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from knowfuse.types import AlignedSource, Aligner, SourceTrace, TokenizedDocument


class Texts(NamedTuple):
    """Texts laid one after another: text m is tokens `[source[m], source[m + 1])` of the source, and so of the target.

    Each begins with a token that is to it what BOS is. What stands in its last row, which predicts nothing, means nothing.
    """

    source: Int64[np.ndarray, " boundaries"]
    target: Int64[np.ndarray, " boundaries"]

    @staticmethod
    def one(trace: SourceTrace, target: TokenizedDocument) -> "Texts":
        """The whole document is one text."""
        return Texts(np.array([0, len(trace.ends)]), np.array([0, len(target.ends)]))


@runtime_checkable
class TextsAligner(Protocol):
    """An `Aligner` that takes several texts in one call; None: the document is one."""

    def __call__(
        self, trace: SourceTrace, target: TokenizedDocument, data: bytes, texts: Texts | None = None
    ) -> AlignedSource: ...


def takes_texts(align: Aligner) -> bool:
    """Whether it is a `TextsAligner`, as its signature says."""
    return "texts" in inspect.signature(align).parameters
