"""One small recipe, and the text it learns from."""

from dataclasses import replace

from experiments_for_tests import documents

from knowfuse.text.corpus import Corpus
from knowfuse.types import Recipe

CORPUS = Corpus.of(
    "tiny",
    [replace(d, split="sources") for d in documents(70, max_bytes=200)] + documents(4, "validation", max_bytes=200),
)
RECIPE = Recipe(
    architecture="llama",
    tokenizer_family="sentencepiece_bpe",
    domain="code",
    vocabulary_size=400,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    context_length=128,
    max_steps=12,
    batch_tokens=512,
    learning_rate=1e-2,
)
