"""How does one tokenizer cut a text, and at which bytes? Every tokenisation is verified against the document's bytes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from knowfuse.surface.families import SPACE_MARK, byte_fallbacks, bytes_of_ids, family_of
from knowfuse.surface.normalising import BYTE_SPACE, normalises
from knowfuse.surface.roles import ends_of_texts
from knowfuse.surface.spelling import first_difference, lengths_of, words_as_in
from knowfuse.surface.templates import Template
from knowfuse.surface.unspellable import UnspellableDocument
from knowfuse.surface.variants import with_text_as_text, without_prefix
from knowfuse.types import OWN, TokenizedDocument

PIECES_AT_ONCE = 50_000  # pieces whose encodings are alive at one time, about 1 kB each


@dataclass(frozen=True)
class Chat:
    """How an LLM reads conversations: its template, and what the first token of an answer carries before it, a space or nothing."""

    template: Template
    lead: bytes = b""


@dataclass(frozen=True)
class Marks:
    """The token that ends an answer, where there is one, and those that are what may stand alone before a message, a space."""

    eos_id: int | None
    leads: list[int]


@dataclass(frozen=True)
class Surface:
    """The bytes of every id of one tokenizer, and its way of cutting a text.

    `token_bytes[i]` is None for ids that stand for no text (BOS, EOS, padding, unknown). `bos_id` falls back to
    `eos_id` where a tokenizer has none (GPT-2, MPT), as those LLMs were trained; where both are missing no row
    predicts the first token, and the tokenizer is refused.
    `rows` are those that its LLM has for ids, where that is known: a tokenizer may have tokens that no model was made for,
    and a model rows that no token has. `usable` is what both have.
    With `chat` it reads conversations; its `eos_id` then is the token that ends an answer.
    """

    name: str
    family: str
    tokenizer: Tokenizer
    token_bytes: list[bytes | None]
    bos_id: int
    eos_id: int | None
    prefix: bytes  # what the first token of a document carries before the text: b" " or b""
    added_ids: frozenset[int] = frozenset()  # added tokens that are text: the text is cut at them first
    takes_before: frozenset[int] = frozenset()  # added tokens, special ones too, that take the white space before them
    takes_behind: frozenset[int] = frozenset()
    normalises: tuple[str, ...] = ()  # what changes a text before it is cut: "NFC", "Lowercase", ...
    rows: int | None = None
    chat: Chat | None = None

    @property
    def lead(self) -> bytes:
        """What the first token of a text, or of a message, carries before it where nothing of it is there: b" " or b""."""
        return self.prefix if self.chat is None else self.chat.lead

    @cached_property
    def marks(self) -> "Marks":
        """By which tokens a message is found in a document."""
        return Marks(self.eos_id, [i for i, b in enumerate(self.token_bytes) if b and b == self.lead])

    @property
    def vocabulary_size(self) -> int:
        return len(self.token_bytes)

    @property
    def usable(self) -> int:
        """Ids below this can be read and said: the tokenizer has them, and the LLM, where it is known, has rows for them."""
        return self.vocabulary_size if self.rows is None else min(self.vocabulary_size, self.rows)

    def require_top_k(self, top_k: int) -> None:
        """ValueError if the LLM, a source, cannot name so many tokens."""
        if top_k > self.usable:
            rows = "" if self.rows is None else f", its model rows for {self.rows}"
            raise ValueError(
                f"top_k is {top_k}, but source {self.name!r} can name {self.usable} tokens (its tokenizer has "
                f"{self.vocabulary_size}{rows}): set top_k to at most {self.usable}"
            )

    def require_rows(self, largest_id: int) -> None:
        """ValueError if the tokens that are to be read, `largest_id` among them, are more than the LLM has rows for."""
        if self.rows is not None:
            require_rows(self.name, largest_id, self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """A content hash of everything that decides how a text is cut."""
        chat = [] if self.chat is None else [self.chat.template.state]
        state = json.dumps([self.tokenizer.to_str(), self.bos_id, self.eos_id, *chat])
        return hashlib.sha256(state.encode()).hexdigest()

    @cached_property
    def token_strings(self) -> list[str]:
        """The printed form of every id, as edit-distance methods compare it; "" where an id has no entry."""
        return [self.tokenizer.id_to_token(i) or "" for i in range(self.vocabulary_size)]

    @cached_property
    def written_bytes(self) -> list[bytes]:
        """The bytes of every id in what is written out with special tokens: those of a special one are its name's."""
        return [s.encode() if b is None else b for s, b in zip(self.token_strings, self.token_bytes, strict=True)]

    @cached_property
    def is_special(self) -> Bool[np.ndarray, " V"]:
        """Of every id whether it stands for no text."""
        return np.array([piece is None for piece in self.token_bytes])

    @cached_property
    def _continuing(self) -> Tokenizer:
        """The same tokenizer for text that goes on where other text ended: nothing is put before it."""
        return without_prefix(self.tokenizer)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_continuing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.tokenizer.encode_special_tokens = True  # a pickled Tokenizer forgets it

    def tokenize(self, text: str, is_complete: bool = True) -> TokenizedDocument:
        """BOS, the tokens of `text`, and an EOS if the document ends here; every token with its end in bytes.

        Text that spells a special token stays text. Raises UnspellableDocument if the bytes of the tokens are not
        those of the text, and ValueError if the text has no bytes: half a surrogate pair.
        """
        (cut,) = self.tokenize_all([(text, is_complete)])
        if isinstance(cut, UnspellableDocument):
            raise cut
        return cut

    def tokenize_all(self, documents: Sequence[tuple[str, bool]]) -> list[TokenizedDocument | UnspellableDocument]:
        """`tokenize` of many texts, each with its `is_complete`, on all cores that tokenizers uses."""
        data = [_utf8(text) for text, _ in documents]
        cut = self.tokenizer.encode_batch_fast([text for text, _ in documents], add_special_tokens=False)
        pieces: list[TokenizedDocument | UnspellableDocument] = []
        for its, encoding, (_, is_complete) in zip(data, cut, documents, strict=True):
            try:
                pieces.append(self._spelled(its, encoding.ids, is_complete))
            except UnspellableDocument as reason:
                pieces.append(reason)
        return pieces

    def takes(self, ids: Sequence[int]) -> list[tuple[bool, bool]]:
        """Which of these tokens take the white space before them, and behind them, with them; none at all: no such token is there."""
        if not (self.takes_before or self.takes_behind):
            return []
        return [(i in self.takes_before, i in self.takes_behind) for i in ids]

    def _spelled(self, data: bytes, ids: list[int], is_complete: bool) -> TokenizedDocument:
        pieces = [self.token_bytes[i] for i in ids]
        if None in pieces:
            raise UnspellableDocument(f"tokenizer {self.name!r} has no bytes for {self._culprit(ids)!r} in it")
        known = [piece for piece in pieces if piece is not None]
        if self.family == "wordpiece":
            known = words_as_in(data, known)
        is_added = [i in self.added_ids for i in ids]
        lengths = lengths_of(known, data, self.prefix, is_added, self.takes(ids))
        if lengths is None:
            spelled = b"".join(known).removeprefix(b"" if data.startswith(b" ") else self.prefix)
            raise UnspellableDocument(f"tokenizer {self.name!r} spells {first_difference(spelled, data)}")
        ends = np.cumsum([0, *lengths])
        ids = [self.bos_id, *ids]
        if is_complete and self.eos_id is not None:
            ids, ends = [*ids, self.eos_id], np.append(ends, len(data))
        return TokenizedDocument(np.asarray(ids, dtype=np.int64), ends.astype(np.int64))

    def first_tokens(self, pieces: Sequence[bytes], at_start: bool) -> np.ndarray:
        """The first token of each piece of text, int64 [N]; -1 where no token's bytes begin it, or the LLM has no row for it.

        `at_start` says whether the pieces begin a document, or a message, or go on inside one. Pieces that are not UTF-8 (a
        character cut in two) go to the longest token that begins them.
        """
        distinct = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}  # suffixes of a vocabulary: 3 of 8
        asked = list(distinct)
        batches = [asked[n : n + PIECES_AT_ONCE] for n in range(0, len(asked), PIECES_AT_ONCE)]
        first = [self._first_tokens(batch, at_start) for batch in batches]
        rows = np.fromiter((distinct[piece] for piece in pieces), dtype=np.int64, count=len(pieces))
        ids = np.concatenate([*first, np.empty(0, dtype=np.int64)])
        return np.where(ids < self.usable, ids, -1)[rows]

    def _first_tokens(self, pieces: Sequence[bytes], at_start: bool) -> np.ndarray:
        tokenizer = self.tokenizer if at_start and self.chat is None else self._continuing
        before = "" if self.chat is None or not at_start else self.lead.decode()
        first = np.full(len(pieces), -1, dtype=np.int64)
        texts, rows, others = [], [], []
        for row, piece in enumerate(pieces):
            try:
                texts.append(before + piece.decode())
                rows.append(row)
            except UnicodeDecodeError:
                others.append(row)
        carried = self.lead if at_start else b""
        first[others] = self._longest_tokens([carried + pieces[row] for row in others])
        may_add = self.lead if at_start else self.prefix if self.family == "wordpiece" else b""
        for row, encoding in zip(rows, tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True):
            ids = encoding.ids
            spelled = self.token_bytes[ids[0]] if ids else None  # None: unknown to this tokenizer
            if spelled and (pieces[row].startswith(spelled) or (may_add + pieces[row]).startswith(spelled)):
                first[row] = ids[0]
        return first

    @cached_property
    def _ids_by_bytes(self) -> dict[bytes, int]:
        """The first id that spells these bytes; a byte-fallback token only where no other does."""
        ids: dict[bytes, int] = {}
        fallbacks = byte_fallbacks(self.token_strings)
        for last in (False, True):
            for i, piece in enumerate(self.token_bytes):
                if piece and (i in fallbacks) == last:
                    ids.setdefault(piece, i)
        return ids

    def _longest_tokens(self, pieces: Sequence[bytes]) -> list[int]:
        """The longest token that begins each piece, -1 where none does."""
        ids = self._ids_by_bytes
        beginnings = ((piece[:n] for n in range(len(piece), 0, -1)) for piece in pieces)
        return [next((ids[b] for b in its if b in ids), -1) for its in beginnings]

    def _culprit(self, ids: list[int]) -> str:
        return next(self.token_strings[i] for i in ids if self.token_bytes[i] is None)


def require_rows(name: str, largest_id: int, rows: int) -> None:
    """ValueError if an LLM of so many rows were to read `largest_id`."""
    if largest_id >= rows:
        raise ValueError(
            f"LLM {name!r}: its tokenizer gives token id {largest_id}, but its model embeds only the ids below {rows}: set "
            "its `tokenizer:` to the one it was trained with, or leave it out"
        )


def surface_of(
    tokenizer: PreTrainedTokenizerBase, name: str, bos: str | None = OWN, eos: str | None = OWN, rows: int | None = None
) -> Surface:
    """The surface of a transformers tokenizer, with `bos`, `eos` and `rows` of its LLM.

    ValueError names a tokenizer that hides its bytes, and a `bos` or `eos` that it cannot begin or end a text with.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"tokenizer {name!r} ({type(tokenizer).__name__}) hides the bytes of its tokens: it has no "
            "tokenizer.json; set `tokenizer:` of this LLM to a folder or hub id with a fast tokenizer"
        )
    bos_id, eos_id = ends_of_texts(tokenizer, name, bos, eos, rows)
    special = {*tokenizer.all_special_ids, bos_id, *(() if eos_id is None else (eos_id,))}
    backend, state = with_text_as_text(backend, special)  # ours: no truncation or padding of the caller's reaches us
    backend.no_truncation()
    backend.no_padding()
    family = family_of(state, name)
    prefix = (backend.encode("a", add_special_tokens=False).tokens or [""])[0]
    return Surface(
        name=name,
        family=family,
        tokenizer=backend,
        token_bytes=bytes_of_ids(backend, family, special, state),
        bos_id=bos_id,
        eos_id=eos_id,
        prefix=b" " if prefix.startswith((SPACE_MARK, BYTE_SPACE)) or family == "wordpiece" else b"",
        added_ids=frozenset(entry["id"] for entry in state["added_tokens"] if not entry["special"]),
        takes_before=frozenset(entry["id"] for entry in state["added_tokens"] if entry["lstrip"]),
        takes_behind=frozenset(entry["id"] for entry in state["added_tokens"] if entry["rstrip"]),
        normalises=normalises(state),
        rows=rows,
    )


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise ValueError(
            f"a text has half a surrogate pair ({half} at character {error.start}), which no bytes spell: remove it"
        ) from error
