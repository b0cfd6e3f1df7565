"""What is a document, how is a text cut into documents, and on which side of the split is each?

A text is cut, once and for all LLMs, into pieces of at most `max_document_bytes`; a piece is what everything
downstream calls a document. The side is decided by a hash of the whole text, so no text is on two sides:
`sources` (what the recipes of the quickstart learn from), `fusion` (what the sources read and the target trains on),
`validation`, `test`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from knowfuse.ids import ID_BYTES

Split = Literal["sources", "fusion", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class RawDocument:
    """A whole text as a reader found it; `split` is the side it is on, None: the hash of the text decides."""

    text: str
    domain: str
    split: Split | None = None


@dataclass(frozen=True)
class Document:
    """A piece of text; `is_complete` says that its document ends here, so that an EOS follows."""

    text: str
    domain: str
    split: Split
    is_complete: bool = True

    @cached_property
    def id(self) -> str:
        """A content hash, 24 hex digits: equal text is one document wherever it stands."""
        return id_of(self.text.encode(), self.is_complete).hex()

    @cached_property
    def num_bytes(self) -> int:
        return len(self.text.encode())


def id_of(data: bytes, is_complete: bool) -> bytes:
    """The id of the document that holds these bytes, `ID_BYTES` of them."""
    return hashlib.sha256((b"1" if is_complete else b"0") + data).digest()[:ID_BYTES]


def cut(text: str, max_bytes: int) -> list[str]:
    """The text in pieces of at most `max_bytes` bytes; cuts after a newline, else a space, else a character."""
    return [piece.decode() for piece in cut_bytes(text.encode(), max_bytes)]


def cut_bytes(data: bytes, max_bytes: int) -> list[bytes]:
    """The same of UTF-8."""
    if max_bytes < 4:
        raise ValueError(f"max_document_bytes must be at least 4, the bytes of one character, got {max_bytes}")
    pieces, start = [], 0
    while len(data) - start > max_bytes:
        window = data[start : start + max_bytes]
        at = max(window.rfind(b"\n"), window.rfind(b" ") if b"\n" not in window[max_bytes // 2 :] else -1) + 1
        if at == 0:
            at = max_bytes
            while data[start + at] & 0xC0 == 0x80:  # inside a character
                at -= 1
        pieces.append(window[:at])
        start += at
    return [*pieces, data[start:]] if data else pieces


def side_of(text: str, shares: Mapping[Split, float]) -> Split:
    """The side of a whole text, by its hash; `shares` sum to 1."""
    return side_of_bytes(text.encode(), shares)


def side_of_bytes(data: bytes, shares: Mapping[Split, float]) -> Split:
    """The same of UTF-8."""
    point = int.from_bytes(hashlib.sha256(data).digest()[:8]) / 2**64
    reached = 0.0
    for split, share in shares.items():
        reached += share
        if point < reached:
            return split
    return list(shares)[-1]
