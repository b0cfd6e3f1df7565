"""Do the tokens spell the text, and how many of its bytes does each take?"""

from collections.abc import Iterator, Sequence

SPACE = 64  # bytes that are looked at for white space at a time


def lengths_of(
    pieces: list[bytes], data: bytes, prefix: bytes, is_added: list[bool], takes: Sequence[tuple[bool, bool]] = ()
) -> list[int] | None:
    """The bytes each token takes of the text; None if the tokens do not spell it.

    A tokenizer may put `prefix` before a text; and some cut a text at its added tokens first, and put it before each
    of the texts between them. `takes` says which of the tokens take the white space before them, and behind them, with them.
    """
    lengths, spelled = [len(piece) for piece in pieces], b"".join(pieces)
    if spelled == data:
        return lengths
    if prefix and pieces and pieces[0].startswith(prefix) and spelled == prefix + data:
        return [lengths[0] - len(prefix), *lengths[1:]]
    return _lengths_between(pieces, data, prefix, is_added, takes) if any(is_added) else None


def _lengths_between(
    pieces: list[bytes], data: bytes, prefix: bytes, is_added: list[bool], takes: Sequence[tuple[bool, bool]]
) -> list[int] | None:
    lengths, at = [len(piece) for piece in pieces], 0
    for first, last in _stretches(is_added):
        spelled = b"".join(pieces[first:last])
        before, behind = takes[first] if takes and is_added[first] else (False, False)
        if before:
            lengths[first] += (space := _space_at(data, at))
            at += space
        if not data.startswith(spelled, at):
            spelled = spelled.removeprefix(prefix)
            lengths[first] -= len(prefix)
            if lengths[first] < 0 or not data.startswith(spelled, at):
                return None
        at += len(spelled)
        if behind:
            lengths[first] += (space := _space_at(data, at))
            at += space
    return lengths if at == len(data) else None


def _space_at(data: bytes, at: int) -> int:
    """How many bytes of white space begin here."""
    begin = at
    while text := data[at : at + SPACE].decode(errors="ignore"):
        words = text.lstrip()
        at += len(text[: len(text) - len(words)].encode())
        if words:
            break
    return at - begin


def _stretches(is_added: list[bool]) -> Iterator[tuple[int, int]]:
    """First and one past the last token of every added token and of every text between two."""
    first = 0
    for n, added in enumerate(is_added):
        if added:
            yield from ((first, n), (n, n + 1)) if first < n else ((n, n + 1),)
            first = n + 1
    if first < len(is_added):
        yield first, len(is_added)


def words_as_in(data: bytes, pieces: list[bytes]) -> list[bytes]:
    """WordPiece marks words but not whether a space came before: each piece with a space where the text has one."""
    words, at = [], 0
    for piece in pieces:
        words.append(piece if data.startswith(b" ", at) else piece.removeprefix(b" "))
        at += len(words[-1])
    return words


def first_difference(spelled: bytes, data: bytes) -> str:
    """The first difference between what the tokens spell and the text, for a log line."""
    at = next((i for i, (a, b) in enumerate(zip(spelled, data, strict=False)) if a != b), min(len(spelled), len(data)))
    return f"{spelled[at : at + 16]!r} where the text has {data[at : at + 16]!r} (byte {at})"
