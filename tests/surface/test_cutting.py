"""The bytes of tokens against the text they came from, for every family we read."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers_for_tests import BYTE_TOKENS, LOSSLESS, gemma, llama, neox, surface, unigram, wordpiece
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from knowfuse.surface import Surface, UnspellableDocument, cutting, surface_of
from knowfuse.types import TokenizedDocument

UNICODE = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="▁"), max_size=40)
TRICKY = [
    " leading", "  two leading", "\n\nnewlines\n", "\ttabs\t\t", "emoji 🙂🙃", "e\u0301 combining", "trailing ", " ",
    "\u00a0", "Ġmark", "<0x41>", "<s>", "</s>", "a</s>b", "<|endoftext|>", "a <|endoftext|> b", "<unk>", "日本語",
]  # fmt: skip


def spelled(surface: Surface, tokens: TokenizedDocument) -> bytes:
    return b"".join(surface.token_bytes[i] or b"" for i in tokens.input_ids)


@pytest.mark.parametrize("family", LOSSLESS)
@pytest.mark.parametrize("text", TRICKY)
def test_tokens_spell_the_text(family: str, text: str) -> None:
    check_spelling(surface(family), text)


@pytest.mark.parametrize("family", LOSSLESS)
@settings(max_examples=150)
@given(text=UNICODE)
def test_tokens_spell_any_unicode(family: str, text: str) -> None:
    check_spelling(surface(family), text)


@pytest.mark.parametrize("family", LOSSLESS)
def test_a_text_with_the_space_mark_itself_is_set_aside_where_it_reads_as_a_space(family: str) -> None:
    if family == "neox":
        check_spelling(surface(family), "the ▁ mark")
    else:
        with pytest.raises(UnspellableDocument, match=f"tokenizer '{family}' spells"):
            surface(family).tokenize("the ▁ mark")


def check_spelling(surface: Surface, text: str) -> None:
    data, tokens = text.encode(), surface.tokenize(text)
    assert tokens.input_ids[0] == surface.bos_id
    assert tokens.input_ids[-1] == surface.eos_id
    assert tokens.ends[0] == 0
    assert tokens.ends[-1] == len(data)
    assert spelled(surface, tokens) in (data, surface.prefix + data)
    text_ids = tokens.input_ids[1:-1]
    assert not set(text_ids.tolist()) & {surface.bos_id, surface.eos_id}, "text that spells a special token stays text"
    starts = tokens.ends[:-2]
    for i, start, end in zip(text_ids, starts, tokens.ends[1:-1], strict=True):
        piece = surface.token_bytes[i]
        assert piece is not None
        assert data[start:end] in (piece, piece.removeprefix(surface.prefix) if start == 0 else piece)


@pytest.mark.parametrize("family", LOSSLESS)
def test_an_incomplete_document_has_no_eos(family: str) -> None:
    whole, cut = surface(family).tokenize("def f(x):"), surface(family).tokenize("def f(x):", is_complete=False)
    assert np.array_equal(whole.input_ids[:-1], cut.input_ids)
    assert np.array_equal(whole.ends[:-1], cut.ends)


def test_the_space_put_before_a_text_takes_none_of_its_bytes() -> None:
    tokens = surface("llama").tokenize("the wrapped")
    assert surface("llama").token_strings[tokens.input_ids[1]].startswith("▁")
    first = surface("llama").token_bytes[tokens.input_ids[1]]
    assert first is not None
    assert tokens.ends[1] == len(first) - 1


def test_prefixes() -> None:
    assert [surface(f).prefix for f in ("llama", "gemma", "neox", "unigram", "wordpiece")] == [
        b" ",
        b"",
        b"",
        b" ",
        b" ",
    ]


def test_bos_falls_back_to_eos() -> None:
    assert surface("neox").bos_id == surface("neox").eos_id == 0


def test_special_tokens_and_unknown_have_no_bytes_and_byte_tokens_have_one() -> None:
    for family in ("llama", "unigram"):
        tokenizer = surface(family).tokenizer
        for token in ("<s>", "</s>", "<unk>"):
            assert surface(family).token_bytes[tokenizer.token_to_id(token)] is None
        for byte, token in enumerate(BYTE_TOKENS):
            assert surface(family).token_bytes[tokenizer.token_to_id(token)] == bytes([byte])


def test_an_added_token_that_is_not_special_is_text() -> None:
    tokenizer = neox()
    tokenizer.add_tokens(["\n\n\n", "<fim>"])
    added = surface_of(tokenizer, "added")
    tokens = added.tokenize("a\n\n\nb<fim>")
    assert {added.token_strings[i] for i in tokens.input_ids} >= {"\n\n\n", "<fim>"}
    assert spelled(added, tokens) == b"a\n\n\nb<fim>"


@pytest.mark.parametrize(
    "text", ["a<fim>b", " a<fim>  b\n", "<fim><fim> x <fim>", "<fim>", "a  <fim>   <fim>\n<fim>  "]
)
@pytest.mark.parametrize("family", ["llama", "gemma", "neox", "prefixed_neox", "unigram"])
def test_a_space_put_before_the_text_after_an_added_token_takes_no_bytes(family: str, text: str) -> None:
    """Tokenizers cut a text at its added tokens first, and treat what is between as texts of their own."""
    make = {"llama": llama, "gemma": gemma, "neox": neox, "prefixed_neox": neox, "unigram": unigram}[family]
    tokenizer = make()
    if family == "prefixed_neox":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_tokens([AddedToken("<fim>", normalized=False)])
    added = surface_of(tokenizer, "added")
    tokens = added.tokenize(text)
    data = text.encode()
    assert tokens.ends[-1] == len(data)
    for i, start, end in zip(tokens.input_ids[1:-1], tokens.ends[:-2], tokens.ends[1:-1], strict=True):
        assert data[start:end] in (added.token_bytes[i], (added.token_bytes[i] or b"").removeprefix(added.prefix))
    fim = added.token_strings.index("<fim>")
    ends = tokens.ends[tokens.input_ids == fim].tolist()
    assert ends == [at + 5 for at in range(len(data)) if data.startswith(b"<fim>", at)]


@pytest.mark.parametrize("text", ["a <fim> b", "<fim>", "a<fim>b", "  <fim> <fim>"])
def test_an_added_token_that_is_normalised_carries_the_space_put_before_it(text: str) -> None:
    """`tokenizers` looks for "▁<fim>" where Prepend makes that of "<fim>": the token stands for the space too."""
    tokenizer = llama()
    tokenizer.add_tokens([AddedToken("<fim>", normalized=True)])
    added = surface_of(tokenizer, "added")
    check_spelling(added, text)
    assert b" <fim>" in added.token_bytes


def test_a_special_token_registered_like_others_is_special() -> None:
    """As transformers registers the user-defined pieces of a SentencePiece model."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=neox().backend_tokenizer,
        eos_token="<|endoftext|>",
        additional_special_tokens=[AddedToken("<fim>", special=False)],
    )
    added = surface_of(tokenizer, "added")
    assert added.token_bytes[tokenizer.convert_tokens_to_ids("<fim>")] is None
    check_spelling(added, "a<fim>b")


def test_truncation_and_padding_of_the_caller_do_not_reach_us() -> None:
    tokenizer = llama()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert np.array_equal(
        surface_of(tokenizer, "cut").tokenize("wrap a paragraph of text").input_ids,
        surface("llama").tokenize("wrap a paragraph of text").input_ids,
    )


@pytest.mark.parametrize("family", LOSSLESS)
def test_a_pickled_surface_cuts_the_same(family: str) -> None:
    copy = pickle.loads(pickle.dumps(surface(family)))
    text = "the <s> </s><|endoftext|> end"
    assert np.array_equal(copy.tokenize(text).input_ids, surface(family).tokenize(text).input_ids)
    assert copy.fingerprint == surface(family).fingerprint


@pytest.mark.parametrize("text", ["wrap the text", " wrap", "wrap(text, width=70)", "self.width"])
def test_wordpiece_spells_single_spaces(text: str) -> None:
    tokens = surface("wordpiece").tokenize(text)
    assert tokens.ends[-1] == len(text)
    pieces = [text.encode()[a:b] for a, b in zip(tokens.ends[:-2], tokens.ends[1:-1], strict=True)]
    strings = [surface("wordpiece").token_strings[i] for i in tokens.input_ids[1:-1]]
    assert [p.strip().decode() for p in pieces] == [s.removeprefix("##") for s in strings]


@pytest.mark.parametrize("text", ["two  spaces", "a\nline", " ", "日本"])
def test_wordpiece_sets_other_texts_aside(text: str) -> None:
    with pytest.raises(UnspellableDocument, match="tokenizer 'wordpiece' "):
        surface("wordpiece").tokenize(text)


def test_a_normalizer_that_changes_the_text_sets_it_aside() -> None:
    lower = surface_of(wordpiece(lowercase=True), "lower")
    assert lower.tokenize("wrap").ends[-1] == 4
    with pytest.raises(UnspellableDocument, match=r"tokenizer 'lower' spells b'w.*' where the text has b'W.*' \(byte"):
        lower.tokenize("Wrap")


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(
        ValueError, match=r"half a surrogate pair \(U\+D800 at character 1\), which no bytes spell"
    ) as error:
        surface("neox").tokenize("a\ud800b")
    assert not isinstance(error.value, UnspellableDocument), "an error of the corpus, not a document to set aside"


def test_a_slow_tokenizer_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"tokenizer 'byt5' \(ByT5Tokenizer\) hides the bytes .* set `tokenizer:`"):
        surface_of(ByT5Tokenizer(), "byt5")


def test_an_unknown_decoder_is_refused_by_name() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="tokenizer 'words' hides the bytes of its tokens: its decoder is None"):
        surface_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>"), "words")


def test_neither_bos_nor_eos_is_refused_by_name() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    tokenizer.decoder = decoders.ByteLevel()
    with pytest.raises(ValueError, match="tokenizer 'bare' has neither BOS nor EOS"):
        surface_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer), "bare")


@pytest.mark.parametrize("family", LOSSLESS)
def test_first_tokens_at_start_are_those_of_the_text(family: str) -> None:
    texts = ["wrap the text", "x", "🙂", "\n  def", "The"]
    first = surface(family).first_tokens([t.encode() for t in texts], at_start=True)
    assert first.tolist() == [surface(family).tokenize(t).input_ids[1] for t in texts]


@pytest.mark.parametrize("family", LOSSLESS)
def test_first_tokens_inside_put_nothing_before_the_piece(family: str) -> None:
    pieces = [b"ing the", b" the text", b"\n", b"s", "🙂".encode(), b"  def"]
    for piece, i in zip(pieces, surface(family).first_tokens(pieces, at_start=False), strict=True):
        assert i >= 0
        assert piece.startswith(surface(family).token_bytes[i] or b"never"), piece


def test_first_tokens_of_broken_characters_are_the_longest() -> None:
    half, rest = "🙂".encode()[:2], "🙂 the".encode()[2:]
    for family in LOSSLESS:
        first = surface(family).first_tokens([half, rest, b"the" + half, b" " + half], at_start=False)
        pieces = [surface(family).token_bytes[i] for i in first]
        longest = max((b for b in surface(family).token_bytes if b and b"the".startswith(b)), key=len)
        assert pieces == [half[:1], rest[:1], longest, b" "]
        assert surface(family).token_strings[first[3]] in ("▁", "Ġ"), "a space that the vocabulary has, not its byte"


def test_first_tokens_are_none_where_the_vocabulary_lacks_the_text() -> None:
    pieces = ["日本".encode(), "日 the".encode(), b"", b"\n"]
    assert surface("wordpiece").first_tokens(pieces, at_start=False).tolist() == [-1, -1, -1, -1]
    lower = surface_of(wordpiece(lowercase=True), "lower")
    assert lower.first_tokens([b"Wrap"], at_start=False).tolist() == [-1]


def test_unigram_still_cuts_as_transformers_does() -> None:
    text = "Wrap a single paragraph of text, returning a list of wrapped lines."
    expected = unigram()(text, add_special_tokens=False)["input_ids"]
    assert surface("unigram").tokenize(text).input_ids[1:-1].tolist() == expected


def test_first_tokens_are_those_of_each_piece_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces asked twice, and more of them than one batch holds."""
    pieces = [b"ing", b" the", b"\xf0\x9f", b"ing", b"", b" the", b"x"]
    alone = [surface("neox").first_tokens([piece], at_start=False).item() for piece in pieces]
    monkeypatch.setattr(cutting, "PIECES_AT_ONCE", 2)
    assert surface("neox").first_tokens(pieces, at_start=False).tolist() == alone
    assert surface("neox").first_tokens([], at_start=False).shape == (0,)


def test_pieces_of_text_among_the_added_tokens() -> None:
    """As Gemma has them: newlines are found in the raw text, runs of spaces by the model, a written mark is set aside."""
    text = "a    b\n\nc <table>\n\n\n\n<unused0>  "
    tokens = surface("gemma").tokenize(text)
    check_spelling(surface("gemma"), text)
    strings = [surface("gemma").token_strings[i] for i in tokens.input_ids]
    assert {"\n\n", "<table>", "\n\n\n", "\n", "<unused0>", "▁▁"} <= set(strings)
    with pytest.raises(UnspellableDocument, match="tokenizer 'gemma' spells"):
        surface("gemma").tokenize("a▁▁▁▁b")
