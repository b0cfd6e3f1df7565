"""What the tokens take of a text, against texts small enough to count by hand."""

import pytest

from knowfuse.surface.spelling import lengths_of, words_as_in


@pytest.mark.parametrize(
    ("pieces", "data", "expected"),
    [
        ([b"a", b" b"], b"a b", [1, 2]),
        ([b" a", b" b"], b"a b", [1, 2]),  # the space put before takes none
        ([b" ", b"a"], b"a", [0, 1]),
        ([b"  a"], b" a", [2]),
        ([b" a", b" c"], b"a b", None),
        ([b" a"], b"a b", None),  # the end is missing
        ([b"", b" a"], b"a", None),
        ([], b"", []),
        ([], b"a", None),
    ],
)
def test_lengths(pieces: list[bytes], data: bytes, expected: list[int] | None) -> None:
    assert lengths_of(pieces, data, b" ", [False] * len(pieces)) == expected


@pytest.mark.parametrize(
    ("pieces", "data", "expected"),
    [
        ([b" a", b"<x>", b" b"], b"a<x>b", [1, 3, 1]),
        ([b" a", b"<x>", b" b"], b" a<x> b", [2, 3, 2]),
        ([b" a", b"<x>", b" b"], b"a<x> b", [1, 3, 2]),
        ([b"<x>", b"<x>", b" b", b"c"], b"<x><x>bc", [3, 3, 1, 1]),
        ([b"<x>", b" b", b" c"], b"<x>bc", None),  # inside a text nothing is put before a token
    ],
)
def test_lengths_after_added_tokens(pieces: list[bytes], data: bytes, expected: list[int] | None) -> None:
    assert lengths_of(pieces, data, b" ", [piece == b"<x>" for piece in pieces]) == expected


def test_words_take_the_space_where_the_text_has_one() -> None:
    assert words_as_in(b"a bc", [b" a", b" b", b"c"]) == [b"a", b" b", b"c"]
    assert words_as_in(b" a(b", [b" a", b" (", b" b"]) == [b" a", b"(", b"b"]
    assert words_as_in(b"a  b", [b" a", b" b"]) == [b"a", b" b"], "one of two spaces: not the text's bytes"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"<u>\n hi<e>\n", [5, 2, 4]),
        (b"<u>hi  <e>", [3, 2, 5]),
        ("<u>\u2003hi <e>".encode(), [6, 2, 4]),
        (b"<u>" + b" " * 200 + b"hi<e>", [203, 2, 3]),
        (b"<u> ho<e>", None),
    ],
)
def test_added_tokens_that_take_white_space_with_them(data: bytes, expected: list[int] | None) -> None:
    """As the roles of Phi-3's template take the line break behind them."""
    takes = [(False, True), (False, False), (True, True)]
    assert lengths_of([b"<u>", b"hi", b"<e>"], data, b" ", [True, False, True], takes) == expected
