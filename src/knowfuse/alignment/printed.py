"""How does a printed token compare with one of another tokenizer family?

Each family marks a space in its own way: `▁the`, `Ġthe`, and WordPiece marks the words that continue (`##s`).
"""

from knowfuse.surface import SPACE_MARK, Surface


def with_common_mark(surface: Surface) -> list[str | None]:
    """The printed form of every id with `▁` for a space, whatever the family.

    None for ids that stand for no text, and for those that the LLM has no row for: they are as good as not there.
    """
    mark = {"byte_level": _byte_level, "sentencepiece": _sentencepiece, "wordpiece": _wordpiece}[surface.family]
    pairs = zip(surface.token_strings, surface.token_bytes, strict=True)
    return [mark(token) if piece and i < surface.usable else None for i, (token, piece) in enumerate(pairs)]


def without_mark(token: str) -> str:
    """A token with the common mark, without it."""
    return token.replace(SPACE_MARK, "")


def _byte_level(token: str) -> str:
    return token.replace("Ġ", SPACE_MARK).replace(" ", SPACE_MARK)


def _sentencepiece(token: str) -> str:
    return token.replace(" ", SPACE_MARK)


def _wordpiece(token: str) -> str:
    return token.removeprefix("##") if token.startswith("##") else SPACE_MARK + token
