"""The hard texts themselves, and the tokenizers that keep every byte of them."""

import unicodedata

import pytest
from tokenizers_for_tests import LOSSLESS, surface, wordpiece

from knowfuse.surface import surface_of
from knowfuse.surface.hard_texts import HARD_TEXTS, refuses_lone_surrogate, unrecovered


@pytest.mark.parametrize("family", LOSSLESS)
def test_lossless_families_keep_every_byte(family: str) -> None:
    assert unrecovered(surface(family)) == {}
    assert refuses_lone_surrogate(surface(family))


def test_each_loss_is_named_with_its_first_byte() -> None:
    lost = unrecovered(surface_of(wordpiece(lowercase=True), "lower"))
    assert (
        lost["upper case"]
        == "tokenizer 'lower' spells b'capitals, all an' where the text has b'Capitals, ALL an' (byte 0)"
    )
    assert {"tabs", "CRLF", "runs of spaces", "code"} <= lost.keys()
    assert "a leading space" not in lost


def test_every_unicode_normalisation_changes_one_of_them() -> None:
    changes = {
        form: {name for name, text in HARD_TEXTS.items() if unicodedata.normalize(form, text) != text}
        for form in ("NFC", "NFD", "NFKC", "NFKD")
    }
    assert {"decomposed accents"} <= changes["NFC"] < changes["NFKC"]
    assert {"composed accents"} <= changes["NFD"] < changes["NFKD"]
