"""What does a tokenizer do to a text before it cuts it? Read from its tokenizer.json."""

from typing import Any

from knowfuse.surface.families import SPACE_MARK

BYTE_SPACE = "Ġ"  # how byte-level BPE prints a space
KEEPS_TEXT = {"Prepend", "ByteLevel"}  # normalizers that add a space or print bytes, and lose nothing
DROPS_SPACES = {"BertPreTokenizer", "CharDelimiterSplit", "Whitespace", "WhitespaceSplit"}
BERT_OPTIONS = {
    "clean_text": "CleanText",
    "handle_chinese_chars": "SpacedChinese",
    "strip_accents": "StripAccents",
    "lowercase": "Lowercase",
}


def normalises(state: dict[str, Any]) -> tuple[str, ...]:
    """What changes a text before it is cut, by the names that the `tokenizers` library gives it: NFC, Lowercase, ...

    A pre-tokenizer that drops spaces is named too. `Precompiled` is a SentencePiece character map (mostly NFKC).
    The space that many put before a text, and the mark they print for a space, change nothing.
    """
    return (*_changes(state.get("normalizer")), *_drops(state.get("pre_tokenizer")))


def _changes(node: dict[str, Any] | None) -> list[str]:
    kind = (node or {}).get("type")
    if node is None or kind in KEEPS_TEXT:
        return []
    if kind == "Sequence":
        return [name for child in node["normalizers"] for name in _changes(child)]
    if kind == "BertNormalizer":
        strips = node["lowercase"] if node["strip_accents"] is None else node["strip_accents"]  # as BERT's own code
        options = {**node, "strip_accents": strips}
        return [name for option, name in BERT_OPTIONS.items() if options[option]]
    if kind == "Replace":
        (pattern,) = node["pattern"].values()
        marks_space = pattern == " " and node["content"] in (SPACE_MARK, BYTE_SPACE)
        return [] if marks_space else [f"Replace({pattern!r}, {node['content']!r})"]
    return [str(kind)]


def _drops(node: dict[str, Any] | None) -> list[str]:
    if node is None:
        return []
    if node["type"] == "Sequence":
        return [name for child in node["pretokenizers"] for name in _drops(child)]
    removes = node["type"] in DROPS_SPACES or str(node.get("behavior")).lower() == "removed"
    return [node["type"]] if removes else []
