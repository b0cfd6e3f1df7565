"""Documents of every kind that a source reads: short, long, beyond ASCII, cut."""

from knowfuse.text.corpus import Document

TEXTS = [
    "A short one.",
    "def wrap(text, width=70):\n    return width",
    "h\u00e9llo \u20ac \U0001f600",
    "and a longer document that goes on for a while\n" * 4,
    "A cut document, which no EOS follows",
]


def documents_of(texts: list[str]) -> list[Document]:
    """Complete, but for those that say that they are cut."""
    return [Document(text, "code", "fusion", is_complete="cut" not in text) for text in texts]


DOCUMENTS = documents_of(TEXTS)
