"""Which documents can an LLM not read as they are?"""


class UnspellableDocument(ValueError):
    """A document whose tokens do not spell its bytes; it is set aside and counted."""
