"""Which bytes does each id of a vocabulary stand for? Family by family.

A family is read from the tokenizer's own decoder, never from its name: byte-level BPE (GPT-2, MPT, Llama 3, Qwen),
SentencePiece-like BPE and Unigram (`▁` for a space, `<0x0A>` byte fallback; Llama 2, Mistral, Gemma, OpenLLaMA), and
WordPiece (`##`).
"""

import re
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

SPACE_MARK = "▁"
_BYTE_FALLBACK = re.compile("<0x[0-9A-F]{2}>")


def family_of(state: dict[str, Any], name: str) -> str:
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


def bytes_of_ids(backend: Tokenizer, family: str, special: set[int], state: dict[str, Any]) -> list[bytes | None]:
    """The bytes of every id; None for special tokens and ids without an entry."""
    added = {entry["id"]: entry for entry in state["added_tokens"]}
    special = special | {i for i, entry in added.items() if entry["special"]} | _unknown_ids(backend, state)
    vocabulary = backend.get_vocab(with_added_tokens=True)
    table: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
    plain = {i: token for token, i in vocabulary.items() if i not in special and i not in added}
    for i, piece in zip(plain, _READERS[family](list(plain.values())), strict=True):
        table[i] = piece
    for i in added.keys() - special:
        table[i] = _added_bytes(added[i], family, backend)
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


def _byte_level(tokens: Sequence[str]) -> list[bytes]:
    known = _BYTE_OF.keys()
    return [bytes([_BYTE_OF[c] for c in t]) if known >= set(t) else t.encode() for t in tokens]


def _sentencepiece(tokens: Sequence[str]) -> list[bytes]:
    pieces = [token.replace(SPACE_MARK, " ").encode() for token in tokens]
    for i in byte_fallbacks(tokens):
        pieces[i] = bytes([int(tokens[i][3:5], 16)])
    return pieces


def byte_fallbacks(tokens: Sequence[str]) -> set[int]:
    """Where in this list the tokens are that stand for one byte, as `<0x0A>`."""
    return {i for i, token in enumerate(tokens) if token.startswith("<0x") and _BYTE_FALLBACK.fullmatch(token)}


def _wordpiece(tokens: Sequence[str]) -> list[bytes]:
    """A word's first piece carries the space that WordPiece drops; a text without it there is caught by `tokenize`."""
    return [(token[2:] if token.startswith("##") else f" {token}").encode() for token in tokens]


def _added_bytes(entry: dict[str, Any], family: str, backend: Tokenizer) -> bytes:
    """Added tokens are matched against the text, so they are their own bytes.

    Those of SentencePiece may hold its mark; where they are normalised, the text is, and they as well: `<fim>` is
    `▁<fim>` to a tokenizer that puts a space before every text.
    """
    token: str = entry["content"]
    if family != "sentencepiece":
        return token.encode()
    if entry["normalized"] and backend.normalizer is not None:
        token = backend.normalizer.normalize_str(token)
    return token.replace(SPACE_MARK, " ").encode()


_READERS = {"byte_level": _byte_level, "sentencepiece": _sentencepiece, "wordpiece": _wordpiece}
