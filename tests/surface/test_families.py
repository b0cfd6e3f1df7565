"""The bytes of printed tokens, family by family, by hand."""

from knowfuse.surface.families import _byte_level, _sentencepiece, _wordpiece


def test_byte_level() -> None:
    assert _byte_level("Ġthe") == b" the"
    assert _byte_level("ĊĠĠ") == b"\n  "
    assert _byte_level("Ã©") == "é".encode()
    assert _byte_level("日") == "日".encode(), "no printed byte: an added token, as it is written"


def test_sentencepiece() -> None:
    assert _sentencepiece("▁the▁▁") == b" the  "
    assert _sentencepiece("<0x0A>") == b"\n"
    assert _sentencepiece("<0xFF>") == b"\xff"
    for text in ("<0xGG>", "<0x0a>", "<0x1>", "<0x123>", "a<0x0A>"):
        assert _sentencepiece(text) == text.encode(), "only what tokenizers writes for a byte is one"


def test_wordpiece() -> None:
    assert _wordpiece("##ing") == b"ing"
    assert _wordpiece("wrap") == b" wrap"
