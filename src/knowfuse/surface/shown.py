"""How does a person read the bytes of a token?"""

MARKS = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def shown(data: bytes) -> str:
    """Bytes as text in which spaces and line ends are visible, and what is no character stands as an escape."""
    return "".join(MARKS.get(character, character) for character in data.decode(errors="backslashreplace"))
