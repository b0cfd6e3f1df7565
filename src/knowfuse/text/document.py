"""What is a document, how is a text cut into documents, and on which side of the split is each?

A text is cut, once and for all LLMs, into pieces of at most `max_document_bytes`; a piece is what everything
downstream calls a document. A conversation is never cut: it is the document whose text is the contents of its messages, one
after another. The side is decided by a hash of the whole text, so no text is on two sides:
`sources` (what the recipes of the quickstart learn from), `fusion` (what the sources read and the target trains on),
`validation`, `test`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from knowfuse.ids import ID_BYTES

Split = Literal["sources", "fusion", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)
Learn = Literal["assistant", "last", "all"]  # of a conversation: all answers, the last one, or what others say too
LEARN: tuple[Learn, ...] = get_args(Learn)


@dataclass(frozen=True)
class Message:
    """Who says a message of a conversation, and how many bytes its content has: at least 1, but for an empty system prompt."""

    role: Role
    num_bytes: int


@dataclass(frozen=True)
class Span:
    """The bytes of a document that are the content of one message."""

    role: Role
    begin: int
    end: int


@dataclass(frozen=True)
class Conversation:
    """The contents of some messages, one after another, and which is whose."""

    text: str
    messages: tuple[Message, ...]

    def __len__(self) -> int:
        return len(self.text)


@dataclass(frozen=True)
class RawDocument:
    """A whole text as a reader found it; `split` is the side it is on, None: the hash of the text decides.

    `messages` are those of a conversation; of a plain text there are none. `prompt_bytes` and `is_complete` are those of a
    document that is a piece already.
    """

    text: str
    domain: str
    split: Split | None = None
    messages: tuple[Message, ...] = ()
    prompt_bytes: int = 0
    is_complete: bool = True

    @staticmethod
    def of(found: str | Conversation, domain: str, split: Split | None = None) -> "RawDocument":
        """What a reader found, in this domain."""
        if isinstance(found, Conversation):
            return RawDocument(found.text, domain, split, found.messages)
        return RawDocument(found, domain, split)


@dataclass(frozen=True)
class Document:
    """A piece of text; `is_complete` says that its document ends here, so that an EOS follows.

    A conversation has `messages`, and `learn` says which of them a target learns; a plain text has none, and is learnt whole.
    Of either what begins in the first `prompt_bytes` is not learnt: from them a target went on.
    """

    text: str
    domain: str
    split: Split
    is_complete: bool = True
    messages: tuple[Message, ...] = ()
    learn: Learn = "assistant"
    prompt_bytes: int = 0

    @cached_property
    def id(self) -> str:
        """A content hash, 24 hex digits: equal text is one document wherever it stands, whatever is learnt of it."""
        return id_of(self.text.encode(), self.is_complete, coded(self.messages)).hex()

    @cached_property
    def num_bytes(self) -> int:
        return len(self.text.encode())

    @property
    def spans(self) -> list[Span]:
        """Where the messages of a conversation are."""
        return spans_of(self.messages)

    @property
    def contents(self) -> list[str]:
        """The content of each message; of a plain text the text."""
        data = self.text.encode()
        return [data[span.begin : span.end].decode() for span in self.spans] if self.messages else [self.text]


def id_of(data: bytes, is_complete: bool, messages: str = "") -> bytes:
    """The id of the document that holds these bytes, `ID_BYTES` of them; of a conversation with its coded messages."""
    head = f"chat {messages} " if messages else "1" if is_complete else "0"
    return hashlib.sha256(head.encode() + data).digest()[:ID_BYTES]


def coded(messages: Sequence[Message]) -> str:
    """Roles and sizes of the messages in JSON; nothing where there are none."""
    return json.dumps([[m.role, m.num_bytes] for m in messages], separators=(",", ":")) if messages else ""


def decoded(messages: str) -> tuple[Message, ...]:
    """The inverse."""
    return tuple(Message(role, size) for role, size in json.loads(messages)) if messages else ()


def spans_of(messages: Sequence[Message]) -> list[Span]:
    """Where the contents of these messages are, one after another."""
    spans, at = [], 0
    for message in messages:
        spans.append(Span(message.role, at, at + message.num_bytes))
        at += message.num_bytes
    return spans


def learnt_spans(messages: Sequence[Message], learn: Learn, prompt_bytes: int = 0) -> list[Span]:
    """Those of the messages that are learnt, which begin behind the prompt."""
    spans = [span for span in spans_of(messages) if prompt_bytes <= span.begin < span.end]
    answers = [span for span in spans if span.role == "assistant"]
    return spans if learn == "all" else answers[-1:] if learn == "last" else answers


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
