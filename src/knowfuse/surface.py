"""Which bytes of the document does each token stand for?

The one place that knows tokenizer families. A family is read from the tokenizer's own decoder, never from its name:
byte-level BPE (GPT-2, MPT, Llama 3, Qwen), SentencePiece-like BPE and Unigram (`▁` for a space, `<0x0A>` byte
fallback; Llama 2, Mistral, Gemma, OpenLLaMA), and WordPiece (`##`). Every tokenisation is verified: its bytes must
concatenate to the document's.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from knowfuse.types import TokenizedDocument

SPACE_MARK = "▁"


class UnspellableDocument(ValueError):
    """A document whose tokens do not spell its bytes; it is set aside and counted."""


@dataclass(frozen=True)
class Surface:
    """The bytes of every id of one tokenizer, and its way of cutting a text.

    `token_bytes[i]` is None for ids that stand for no text (BOS, EOS, padding, unknown). `bos_id` falls back to
    `eos_id` where a tokenizer has none (GPT-2, MPT), as those LLMs were trained; where both are missing no row
    predicts the first token, and the tokenizer is refused.
    """

    name: str
    family: str
    tokenizer: Tokenizer
    token_bytes: list[bytes | None]
    bos_id: int
    eos_id: int | None
    prefix: bytes  # what the first token of a document carries before the text: b" " or b""

    @property
    def vocabulary_size(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def fingerprint(self) -> str:
        """A content hash of everything that decides how a text is cut."""
        state = json.dumps([self.tokenizer.to_str(), self.bos_id, self.eos_id])
        return hashlib.sha256(state.encode()).hexdigest()

    @cached_property
    def token_strings(self) -> list[str]:
        """The printed form of every id, as edit-distance methods compare it; "" where an id has no entry."""
        return [self.tokenizer.id_to_token(i) or "" for i in range(self.vocabulary_size)]

    @cached_property
    def _continuing(self) -> Tokenizer:
        """The same tokenizer for text that goes on where other text ended: nothing is put before it."""
        return _without_prefix(self.tokenizer)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_continuing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.tokenizer.encode_special_tokens = True  # a pickled Tokenizer forgets it

    def tokenize(self, text: str, is_complete: bool = True) -> TokenizedDocument:
        """BOS, the tokens of `text`, and an EOS if the document ends here; every token with its end in bytes.

        Text that spells a special token stays text. Raises UnspellableDocument if the bytes of the tokens are not
        those of the text.
        """
        data = text.encode()
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        pieces = [self.token_bytes[i] for i in ids]
        if None in pieces:
            raise UnspellableDocument(f"tokenizer {self.name!r} has no bytes for {self._culprit(ids)!r} in it")
        known = [piece for piece in pieces if piece is not None]
        lengths = _word_lengths(known, data) if self.family == "wordpiece" else _lengths(known, data, self.prefix)
        if lengths is None:
            spelled = b"".join(known).removeprefix(b"" if data.startswith(b" ") else self.prefix)
            raise UnspellableDocument(f"tokenizer {self.name!r} spells {_around(spelled, data)}")
        ends = np.cumsum([0, *lengths])
        ids = [self.bos_id, *ids]
        if is_complete and self.eos_id is not None:
            ids, ends = [*ids, self.eos_id], np.append(ends, len(data))
        return TokenizedDocument(np.asarray(ids, dtype=np.int64), ends.astype(np.int64))

    def first_tokens(self, pieces: Sequence[bytes], at_start: bool) -> np.ndarray:
        """The first token of each piece of text, int64 [N]; -1 where no token's bytes begin it.

        `at_start` says whether the pieces begin a document or go on inside one. Pieces that are not UTF-8 (a
        character cut in two) go to the longest token that begins them.
        """
        tokenizer = self.tokenizer if at_start else self._continuing
        first = np.full(len(pieces), -1, dtype=np.int64)
        texts, rows = [], []
        for row, piece in enumerate(pieces):
            try:
                texts.append(piece.decode())
                rows.append(row)
            except UnicodeDecodeError:
                first[row] = self._longest_token(self.prefix + piece if at_start else piece)
        may_add = self.prefix if at_start or self.family == "wordpiece" else b""
        for row, encoding in zip(rows, tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True):
            spelled = self.token_bytes[encoding.ids[0]] if encoding.ids else None  # None: unknown to this tokenizer
            if spelled and (pieces[row].startswith(spelled) or (may_add + pieces[row]).startswith(spelled)):
                first[row] = encoding.ids[0]
        return first

    @cached_property
    def _ids_by_bytes(self) -> dict[bytes, int]:
        """The first id that spells these bytes; a byte-fallback token only where no other does."""
        ids: dict[bytes, int] = {}
        for i in sorted(range(self.vocabulary_size), key=lambda i: _is_byte_fallback(self.token_strings[i])):
            if piece := self.token_bytes[i]:
                ids.setdefault(piece, i)
        return ids

    def _longest_token(self, piece: bytes) -> int:
        for length in range(len(piece), 0, -1):
            if piece[:length] in self._ids_by_bytes:
                return self._ids_by_bytes[piece[:length]]
        return -1

    def _culprit(self, ids: list[int]) -> str:
        return next(self.token_strings[i] for i in ids if self.token_bytes[i] is None)


def surface_of(tokenizer: PreTrainedTokenizerBase, name: str) -> Surface:
    """The surface of a transformers tokenizer; ValueError names one that hides its bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"tokenizer {name!r} ({type(tokenizer).__name__}) hides the bytes of its tokens: it has no "
            "tokenizer.json; set `tokenizer:` of this LLM to a folder or hub id with a fast tokenizer"
        )
    backend = _with_unlikely_specials(backend)  # ours: no truncation or padding of the caller's reaches us
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    eos_id: Any = tokenizer.eos_token_id
    bos_id: Any = eos_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if bos_id is None:
        raise ValueError(f"tokenizer {name!r} has neither BOS nor EOS: no row could predict a document's first token")
    state = json.loads(backend.to_str())
    family = _family(state, name)
    prefix = (backend.encode("a", add_special_tokens=False).tokens or [""])[0]
    return Surface(
        name=name,
        family=family,
        tokenizer=backend,
        token_bytes=_token_bytes(backend, family, set(tokenizer.all_special_ids), state),
        bos_id=int(bos_id),
        eos_id=None if eos_id is None else int(eos_id),
        prefix=b" " if prefix.startswith((SPACE_MARK, "Ġ")) or family == "wordpiece" else b"",
    )


def _family(state: dict[str, Any], name: str) -> str:
    """The family that a tokenizer.json's decoder tells."""
    decoder = state.get("decoder") or {}
    kinds = [decoder.get("type"), *(d["type"] for d in decoder.get("decoders", []))]
    for kind, family in (("ByteLevel", "byte_level"), ("WordPiece", "wordpiece")):
        if kind in kinds:
            return family
    replaces_mark = any(d.get("pattern") == {"String": SPACE_MARK} for d in decoder.get("decoders", []))
    if "Metaspace" in kinds or replaces_mark:
        return "sentencepiece"
    raise ValueError(
        f"tokenizer {name!r} hides the bytes of its tokens: its decoder is {decoder.get('type')}, we read ByteLevel, "
        "SentencePiece (Metaspace or a Replace of ▁) and WordPiece decoders; set `tokenizer:` of this LLM to a "
        "tokenizer with one of these"
    )


def _token_bytes(backend: Tokenizer, family: str, special: set[int], state: dict[str, Any]) -> list[bytes | None]:
    """The bytes of every id; None for special tokens and ids without an entry."""
    added = {entry["id"]: entry for entry in state["added_tokens"]}
    special = special | {i for i, entry in added.items() if entry["special"]} | _unknown_ids(backend, state)
    vocabulary = backend.get_vocab(with_added_tokens=True)
    table: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
    for token, i in vocabulary.items():
        if i in special:
            continue
        table[i] = _added_bytes(token, family) if i in added else _READERS[family](token)
    return table


def _unknown_ids(backend: Tokenizer, state: dict[str, Any]) -> set[int]:
    model = state["model"]
    unknown = {model.get("unk_id"), backend.token_to_id(model["unk_token"]) if model.get("unk_token") else None}
    return {i for i in unknown if i is not None}


def _printable_bytes() -> dict[str, int]:
    """GPT-2's map from printable characters to bytes: printable latin-1 as itself, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF = _printable_bytes()


def _byte_level(token: str) -> bytes | None:
    return bytes(_BYTE_OF[c] for c in token) if all(c in _BYTE_OF for c in token) else token.encode()


def _sentencepiece(token: str) -> bytes | None:
    if _is_byte_fallback(token):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE_MARK, " ").encode()


def _is_byte_fallback(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _wordpiece(token: str) -> bytes | None:
    """A word's first piece carries the space that WordPiece drops; a text without it there is caught by `tokenize`."""
    return token.removeprefix("##").encode() if token.startswith("##") else f" {token}".encode()


def _added_bytes(token: str, family: str) -> bytes:
    """Added tokens are matched against the raw text, so they are their own bytes, but for SentencePiece's mark."""
    return (token.replace(SPACE_MARK, " ") if family == "sentencepiece" else token).encode()


_READERS = {"byte_level": _byte_level, "sentencepiece": _sentencepiece, "wordpiece": _wordpiece}


def _with_unlikely_specials(tokenizer: Tokenizer) -> Tokenizer:
    """A copy whose Unigram model does not take text that spells a special or byte-fallback token for that token.

    Such a piece gets less than the cheapest way to spell it character by character (a vocabulary that lacks one of
    these characters still takes it, and `tokenize` sets the document aside). Other models need nothing: no merge
    leads to those tokens.
    """
    state = json.loads(tokenizer.to_str())
    model = state["model"]
    if model["type"] == "Unigram" and model["vocab"]:
        lowest = min(score for _, score in model["vocab"])
        special = {entry["content"] for entry in state["added_tokens"] if entry["special"]}
        for entry in model["vocab"]:
            if entry[0] in special or _is_byte_fallback(entry[0]):
                entry[1] = lowest * len(entry[0]) - 1.0
    return Tokenizer.from_str(json.dumps(state))


def _without_prefix(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that puts nothing before a text: no Prepend, Metaspace never, ByteLevel without its prefix space."""

    def strip(node: Any) -> Any:
        if isinstance(node, list):
            return [strip(child) for child in node if not (isinstance(child, dict) and child.get("type") == "Prepend")]
        if not isinstance(node, dict):
            return node
        node = {key: strip(value) for key, value in node.items()}
        if node.get("type") == "Metaspace":
            node["prepend_scheme"] = "never"
        if node.get("type") == "ByteLevel":
            node["add_prefix_space"] = False
        return node

    state = json.loads(tokenizer.to_str())
    for part in ("normalizer", "pre_tokenizer"):
        whole = strip([state[part]])
        state[part] = whole[0] if whole else None
    copy = Tokenizer.from_str(json.dumps(state))
    copy.encode_special_tokens = True
    return copy


def _lengths(pieces: list[bytes], data: bytes, prefix: bytes) -> list[int] | None:
    """The bytes each token takes of the text; None if the tokens do not spell it."""
    lengths, spelled = [len(piece) for piece in pieces], b"".join(pieces)
    if spelled == data:
        return lengths
    if prefix and spelled == prefix + data:
        return [lengths[0] - len(prefix), *lengths[1:]]
    return None


def _word_lengths(pieces: list[bytes], data: bytes) -> list[int] | None:
    """The same for WordPiece, which marks words but not whether a space came before: the text decides."""
    lengths, at = [], 0
    for piece in pieces:
        found = next((p for p in (piece, piece.removeprefix(b" ")) if data.startswith(p, at)), None)
        if found is None:
            return None
        lengths.append(len(found))
        at += len(found)
    return lengths if at == len(data) else None


def _around(spelled: bytes, data: bytes) -> str:
    """The first difference between what the tokens spell and the text, for a log line."""
    at = next((i for i, (a, b) in enumerate(zip(spelled, data, strict=False)) if a != b), min(len(spelled), len(data)))
    return f"{spelled[at : at + 16]!r} where the text has {data[at : at + 16]!r} (byte {at})"
