"""Which documents can an LLM not read as they are, and for which kinds of reason?"""

from collections import Counter
from collections.abc import Iterable

TOO_LONG = "too long"
# What a reason says -> its kind, the first that fits. A reason is kept as a line with what of the document it is.
KINDS = {
    "chat template drops the white space": "trimmed by the template",
    "chat template changes": "changed by the template",
    "chat template writes otherwise": "changed by the template",
    "chat template takes an empty": "an empty system prompt that the template takes for none",
    "chat template refuses": "refused by the template",
    "chat template fails": "the template fails",
    "chat template leaves out": "left out by the template",
    "chat template repeats": "repeated or moved by the template",
    "is partly its chat template": "a token across the template and a message",
    "no token of": "no token before the first message",
    "a message spells": "a special token spelled",
    "has no bytes for": "unknown to the tokenizer",
    "spells": "changed by the tokenizer",
    "can hold": TOO_LONG,
}


class UnspellableDocument(ValueError):
    """A document whose tokens do not spell its bytes; it is set aside and counted."""


def by_kind(reasons: Iterable[str]) -> dict[str, int]:
    """How many documents were set aside for each kind of reason, the most frequent first."""
    found = Counter(next((kind for said, kind in KINDS.items() if said in reason), "other") for reason in reasons)
    return dict(found.most_common())
