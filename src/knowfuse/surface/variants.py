"""The same tokenizer, altered: copies that cut as ours must where the original would not."""

import json
from typing import Any

from tokenizers import Tokenizer, models

from knowfuse.surface.families import byte_fallbacks


def with_text_as_text(tokenizer: Tokenizer, special: set[int]) -> tuple[Tokenizer, dict[str, Any]]:
    """A copy that takes no text for a special token, whatever it spells, and its tokenizer.json; `special` are the ids that
    count as such.

    A special token that is registered as an added token like others (user-defined pieces of a SentencePiece model, as
    transformers converts them) is registered as special. In a Unigram model such a piece, and one of byte fallback,
    gets less than the cheapest way to spell it character by character (a vocabulary that lacks one of these
    characters still takes it, and `tokenize` sets the document aside). Other models need nothing: no merge leads to
    those tokens.
    """
    state = json.loads(tokenizer.to_str())
    for entry in state["added_tokens"]:
        entry["special"] = entry["special"] or entry["id"] in special
    model = state["model"]
    if model["type"] == "Unigram" and model["vocab"]:
        lowest = min(score for _, score in model["vocab"])
        contents = {entry["content"] for entry in state["added_tokens"] if entry["special"]}
        fallbacks = byte_fallbacks([token for token, _ in model["vocab"]])
        for i, entry in enumerate(model["vocab"]):
            if entry[0] in contents or i in fallbacks:
                entry[1] = lowest * len(entry[0]) - 1.0
    copy = Tokenizer.from_str(json.dumps(state))
    copy.encode_special_tokens = True
    return copy, state


def without_prefix(tokenizer: Tokenizer) -> Tokenizer:
    """One that puts nothing before a text: no Prepend, Metaspace never, ByteLevel without its prefix space.

    The same tokenizer where it puts nothing there anyway, since a copy of a large vocabulary takes seconds.
    """
    probe = Tokenizer(models.BPE())
    probe.normalizer, probe.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    parts = {part: json.loads(probe.to_str())[part] for part in ("normalizer", "pre_tokenizer")}
    bare = {part: (_strip([node]) or [None])[0] for part, node in parts.items()}
    if bare == parts:
        return tokenizer
    copy = Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | bare))
    copy.encode_special_tokens = True
    return copy


def _strip(node: Any) -> Any:
    if isinstance(node, list):
        return [_strip(child) for child in node if not (isinstance(child, dict) and child.get("type") == "Prepend")]
    if not isinstance(node, dict):
        return node
    node = {key: _strip(value) for key, value in node.items()}
    if node.get("type") == "Metaspace":
        node["prepend_scheme"] = "never"
    if node.get("type") == "ByteLevel" and "add_prefix_space" in node:
        node["add_prefix_space"] = False
    return node
