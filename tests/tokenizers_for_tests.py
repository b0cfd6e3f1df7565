"""Small real tokenizers of the families we read, trained in a second on docstrings of the standard library."""

import inspect
import json
import string
import textwrap
from functools import cache

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from knowfuse.surface import Surface, surface_of
from knowfuse.types import SourceTrace, TopK

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
FAMILIES = ["llama", "neox", "unigram", "wordpiece"]
LOSSLESS = ["llama", "neox", "unigram", "gemma"]  # those that spell every text


@cache
def training_text() -> list[str]:
    """A few kB of prose and code."""
    source = inspect.getsource(textwrap)
    return [*source.splitlines(), *source.splitlines(keepends=True)[:50], *string.printable]


def _with_byte_pieces(tokenizer: Tokenizer, **model: object) -> Tokenizer:
    """The trained tokenizer with byte tokens that are pieces of the model, not added tokens."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [entry for entry in state["added_tokens"] if entry["content"] not in BYTE_TOKENS]
    state["model"].update(model)
    return Tokenizer.from_str(json.dumps(state))


def _sentencepiece_bpe(vocab_size: int, prefix: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁*[^▁]+"), "isolated")  # while training only
    specials = ["<unk>", "<s>", "</s>", *BYTE_TOKENS]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer = _with_byte_pieces(tokenizer)
    tokenizer.pre_tokenizer = None  # type: ignore[assignment]
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if prefix else parts)
    return tokenizer


def llama(vocab_size: int = 500) -> PreTrainedTokenizerFast:
    """Llama-2-like: SentencePiece BPE, byte fallback, a space put before every text."""
    return _wrap(_sentencepiece_bpe(vocab_size, prefix=True), "<s>", "</s>", "<unk>")


def gemma(vocab_size: int = 460) -> PreTrainedTokenizerFast:
    """Gemma-like: SentencePiece BPE, byte fallback, nothing put before a text, pieces of text among the added tokens."""
    tokenizer = _sentencepiece_bpe(vocab_size, prefix=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    pieces = ["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁▁", "<table>", "<unused0>"]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    return _wrap(tokenizer, "<s>", "</s>", "<unk>")


def neox(vocab_size: int = 420) -> PreTrainedTokenizerFast:
    """GPT-NeoX-like: byte-level BPE whose one special token is EOS, and BOS for want of another."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    return _wrap(tokenizer, None, "<|endoftext|>", None)


def unigram(vocab_size: int = 480) -> PreTrainedTokenizerFast:
    """A SentencePiece Unigram: Metaspace before a text that has none, byte fallback."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first")
    specials = ["<unk>", "<s>", "</s>", *BYTE_TOKENS]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer = _with_byte_pieces(tokenizer, byte_fallback=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", prepend_scheme="first")])
    return _wrap(tokenizer, "<s>", "</s>", "<unk>")


def wordpiece(vocab_size: int = 300, lowercase: bool = False) -> PreTrainedTokenizerFast:
    """BERT-like WordPiece; it spells only texts with single spaces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    return _wrap(tokenizer, "[CLS]", "[SEP]", "[UNK]")


def _wrap(tokenizer: Tokenizer, bos: str | None, eos: str | None, unknown: str | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, unk_token=unknown)


@cache
def surface(family: str) -> Surface:
    """The surface of one of the tokenizers above, by its name; made once."""
    make = {"llama": llama, "gemma": gemma, "neox": neox, "unigram": unigram, "wordpiece": wordpiece}[family]
    return surface_of(make(), family)


def toy_surface(pieces: list[str], merges: list[tuple[str, str]], name: str = "toy") -> Surface:
    """Byte-level BPE over a handful of pieces: ids in the order given, EOS (and BOS) last."""
    tokenizer = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    tokenizer.normalizer = normalizers.Replace(" ", "Ġ")
    tokenizer.decoder = decoders.ByteLevel()
    return surface_of(_wrap(tokenizer, None, "<eos>", None), name)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """The columns of the k largest of each row, of equal ones the first."""
    k = min(k, values.shape[1])
    rows, columns = np.nonzero(values >= np.partition(values, -k)[:, [-k]])
    order = np.lexsort((columns, -values[rows, columns], rows))
    starts = np.searchsorted(rows[order], np.arange(len(values)))
    return columns[order][starts[:, None] + np.arange(k)]


def random_trace(
    surface: Surface, text: str, k: int, seed: int = 0, is_complete: bool = True, peak: float = 0.0
) -> SourceTrace:
    """What an LLM with random logits says about a text; `peak` is added to the logit of the true next token.

    `k` = 0 keeps the full vocabulary.
    """
    tokens = surface.tokenize(text, is_complete)
    logits = np.random.default_rng(seed).normal(size=(len(tokens.ends), surface.vocabulary_size)) * 2.0
    rows = np.arange(len(tokens.ends) - 1)
    logits[rows, tokens.input_ids[1:]] += peak
    log_probs = (logits - np.logaddexp.reduce(logits, -1, keepdims=True)).astype(np.float32)
    ids = _largest(log_probs, k or surface.vocabulary_size)
    nll = np.zeros(len(tokens.ends), dtype=np.float32)
    nll[rows] = -log_probs[rows, tokens.input_ids[1:]]
    return SourceTrace(tokens.input_ids, tokens.ends, TopK(ids, np.take_along_axis(log_probs, ids, -1)), nll)
