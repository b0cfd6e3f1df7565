"""Do the tokens spell the text, and how many of its bytes does each take?"""


def lengths_of(pieces: list[bytes], data: bytes, prefix: bytes) -> list[int] | None:
    """The bytes each token takes of the text; None if the tokens do not spell it."""
    lengths, spelled = [len(piece) for piece in pieces], b"".join(pieces)
    if spelled == data:
        return lengths
    if prefix and spelled == prefix + data:
        return [lengths[0] - len(prefix), *lengths[1:]]
    return None


def word_lengths_of(pieces: list[bytes], data: bytes) -> list[int] | None:
    """The same for WordPiece, which marks words but not whether a space came before: the text decides."""
    lengths, at = [], 0
    for piece in pieces:
        found = next((p for p in (piece, piece.removeprefix(b" ")) if data.startswith(p, at)), None)
        if found is None:
            return None
        lengths.append(len(found))
        at += len(found)
    return lengths if at == len(data) else None


def first_difference(spelled: bytes, data: bytes) -> str:
    """The first difference between what the tokens spell and the text, for a log line."""
    at = next((i for i, (a, b) in enumerate(zip(spelled, data, strict=False)) if a != b), min(len(spelled), len(data)))
    return f"{spelled[at : at + 16]!r} where the text has {data[at : at + 16]!r} (byte {at})"
