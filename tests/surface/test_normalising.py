"""What a tokenizer.json says it does to a text, against what it does."""

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers_for_tests import surface

from knowfuse.surface.normalising import normalises


def state(normalizer: Any = None, pre_tokenizer: Any = None) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    return json.loads(tokenizer.to_str())


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        (normalizers.NFC(), ("NFC",)),
        (normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]),
         ("NFKD", "StripAccents", "Lowercase")),
        (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), ()),
        (normalizers.Sequence([normalizers.Sequence([normalizers.NFKC()]), normalizers.Replace(" ", "▁")]), ("NFKC",)),
        (normalizers.Replace(Regex(" {2,}"), "▁"), ("Replace(' {2,}', '▁')",)),
        (normalizers.Strip(), ("Strip",)),
        (normalizers.ByteLevel(), ()),
        (normalizers.BertNormalizer(lowercase=True), ("CleanText", "SpacedChinese", "StripAccents", "Lowercase")),
        (normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=True),
         ("Lowercase",)),
        (normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, lowercase=False), ()),
    ],
)  # fmt: skip
def test_normalizers(normalizer: Any, expected: tuple[str, ...]) -> None:
    assert normalises(state(normalizer)) == expected


@pytest.mark.parametrize(
    ("pre_tokenizer", "expected"),
    [
        (pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]), ("WhitespaceSplit",)),
        (pre_tokenizers.Split(Regex("\\s+"), "removed"), ("Split",)),
        (pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("\\d"), "isolated"), pre_tokenizers.ByteLevel()]), ()),
        (pre_tokenizers.Metaspace(), ()),
    ],
)
def test_pre_tokenizers_that_drop_spaces(pre_tokenizer: Any, expected: tuple[str, ...]) -> None:
    assert normalises(state(pre_tokenizer=pre_tokenizer)) == expected
    if expected:
        assert "  " not in "".join(piece for piece, _ in pre_tokenizer.pre_tokenize_str("a  b"))


def test_it_is_a_fact_of_the_surface() -> None:
    assert [surface(family).normalises for family in ("llama", "neox", "gemma", "unigram")] == [()] * 4
    assert surface("wordpiece").normalises == ("BertPreTokenizer",)
