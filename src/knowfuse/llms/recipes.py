"""What is the small LLM of a recipe, before it is trained? Its tokenizer and its shape."""

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MptConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from knowfuse.types import Recipe

FEW_EXPERTS = 4  # of a mixture that has more
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def make_model(recipe: Recipe, vocabulary_size: int) -> PreTrainedModel:
    """The recipe's transformers model with random weights; of our own architectures embeddings and LM head are tied."""
    return AutoModelForCausalLM.from_config(config_of(recipe, vocabulary_size))


def config_of(recipe: Recipe, vocabulary_size: int) -> PretrainedConfig:
    """The shape of that model; its tokenizer may turn out to have fewer tokens than the recipe wants."""
    if recipe.like is not None:
        return _config_like(recipe.like, recipe, vocabulary_size)
    if recipe.architecture == "mpt":
        return MptConfig(
            vocab_size=vocabulary_size,
            d_model=recipe.hidden_size,
            n_layers=recipe.num_layers,
            n_heads=recipe.num_heads,
            max_seq_len=recipe.context_length,
        )
    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.hidden_size * 8 // 3 // 32 * 32,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=recipe.context_length,
        tie_word_embeddings=True,
    )


def _config_like(like: Mapping[str, Any], recipe: Recipe, vocabulary_size: int) -> PretrainedConfig:
    """The configuration `like`, in the recipe's sizes: shares of heads and experts stay, as far as whole numbers let them.

    ValueError for an architecture that transformers does not know, or that reads pictures too.
    """
    its = AutoConfig.for_model(**like)
    if its.get_text_config() is not its:
        raise ValueError(
            f"an LLM of model_type {its.model_type!r} reads pictures too, and is not made small: name one that reads text alone"
        )
    heads, layers = recipe.num_heads, recipe.num_layers
    shared = max(1, heads * getattr(its, "num_key_value_heads", heads) // its.num_attention_heads)
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "hidden_size": recipe.hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "head_dim": recipe.hidden_size // heads,
        **dict.fromkeys(("intermediate_size", "moe_intermediate_size"), 2 * recipe.hidden_size),
        **{key: min(FEW_EXPERTS, getattr(its, key, 1)) for key in ("num_local_experts", "num_experts")},
        **dict.fromkeys(("max_position_embeddings", "max_seq_len", "n_positions"), recipe.context_length),
        "layer_types": (getattr(its, "layer_types", None) or [])[:layers],
        "sliding_window": recipe.context_length // 2,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), None),  # the tokenizer says
    }
    own = {its.attribute_map.get(key, key): value for key, value in sizes.items() if hasattr(its, key)}
    kept = {key: value for key, value in own.items() if key.endswith("token_id") or getattr(its, key) is not None}
    return AutoConfig.for_model(**{**like, **kept})


def make_tokenizer(recipe: Recipe, texts: list[str]) -> PreTrainedTokenizerFast:
    """The recipe's tokenizer, trained on its texts."""
    make = {"sentencepiece_bpe": _sentencepiece_bpe, "byte_level_bpe": _byte_level_bpe, "unigram": _unigram}
    return make[recipe.tokenizer_family](texts, recipe.vocabulary_size)


def _sentencepiece_bpe(texts: list[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """As Llama 2's: BPE over `▁` for spaces, a space put before the text, bytes for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # While training, merges stay inside a word or a run of spaces, as SentencePiece's do; cutting needs no such split.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁+(?=▁)|▁?[^▁\n]+|\n+|▁"), "isolated")
    special = ["<unk>", "<s>", "</s>", *BYTE_TOKENS]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    state = _bytes_as_pieces(tokenizer)
    state["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _byte_level_bpe(texts: list[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """As MPT's (GPT-NeoX): BPE over bytes, one special token that ends a text and begins it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def _unigram(texts: list[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """As a SentencePiece Unigram: the most probable cut, `▁` for spaces, bytes for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace("▁", prepend_scheme="first")]
    )
    special = ["<unk>", "<s>", "</s>", *BYTE_TOKENS]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary_size, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    state = _bytes_as_pieces(tokenizer)
    state["model"]["vocab"] = _settled(state["model"]["vocab"], len(special))
    state["model"]["byte_fallback"] = True
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", prepend_scheme="first")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _settled(vocabulary: list[list[Any]], num_special: int) -> list[list[Any]]:
    """The vocabulary of a Unigram, [piece, log probability] each, without what differs between two trainings on the same texts.

    The trainer walks through hash maps of a random seed. Sums over them differ by less than 1e-10: scores are rounded to
    6 digits, and pieces of equal score ordered by their text. Characters outside all learnt pieces get the lowest score
    and 1e-4 more each, in that random order: all of them get the lowest.
    """
    learnt = vocabulary[num_special:]
    characters = {piece for piece, _ in learnt if len(piece) == 1}
    lowest = min(score for _, score in learnt)
    highest = lowest + 1e-4 * len(characters)
    settled = [
        [piece, round(lowest if piece in characters and score < highest else score, 6)] for piece, score in learnt
    ]
    return vocabulary[:num_special] + sorted(settled, key=lambda entry: (-entry[1], entry[0]))


def _bytes_as_pieces(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer's state with its byte tokens in the vocabulary alone, so that "<0x41>" in a text stays text."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [entry for entry in state["added_tokens"] if entry["content"] not in BYTE_TOKENS]
    return state
