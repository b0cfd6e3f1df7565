"""The same tokenizer, altered: copies that cut as ours must where the original would not."""

import json
from typing import Any

from tokenizers import Tokenizer

from knowfuse.surface.families import is_byte_fallback


def with_unlikely_specials(tokenizer: Tokenizer) -> Tokenizer:
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
            if entry[0] in special or is_byte_fallback(entry[0]):
                entry[1] = lowest * len(entry[0]) - 1.0
    return Tokenizer.from_str(json.dumps(state))


def without_prefix(tokenizer: Tokenizer) -> Tokenizer:
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
