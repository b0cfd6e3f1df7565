"""The bytes of printed tokens, family by family, by hand."""

from knowfuse.surface.families import _byte_level, _sentencepiece, _wordpiece


def test_byte_level() -> None:
    assert _byte_level(["Ġthe", "ĊĠĠ", "Ã©"]) == [b" the", b"\n  ", "é".encode()]
    assert _byte_level(["日"]) == ["日".encode()], "no printed byte: an added token, as it is written"


def test_sentencepiece() -> None:
    assert _sentencepiece(["▁the▁▁", "<0x0A>", "<0xFF>"]) == [b" the  ", b"\n", b"\xff"]
    others = ["<0xGG>", "<0x0a>", "<0x1>", "<0x123>", "a<0x0A>"]
    assert _sentencepiece(others) == [text.encode() for text in others], "only what tokenizers writes for a byte is one"


def test_wordpiece() -> None:
    assert _wordpiece(["##ing", "wrap"]) == [b"ing", b" wrap"]
