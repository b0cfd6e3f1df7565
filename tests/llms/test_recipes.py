"""The tokenizers and the models of recipes, before they are trained."""

import json
import re
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes_for_tests import CORPUS, RECIPE

from knowfuse.llms.recipes import make_model, make_tokenizer
from knowfuse.surface import surface_of

FAMILIES = {"sentencepiece_bpe": "sentencepiece", "byte_level_bpe": "byte_level", "unigram": "sentencepiece"}
TEXTS = [
    "a plain text",
    " led by a space",
    "two\n\n\nlines\tand a tab",
    "h\u00e9 \u20ac \U0001f600",
    "<s> <0x41> </s>",
    "\n",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizers_spell_every_text(family: str) -> None:
    """What `surface` verifies holds for text that the tokenizer was not trained on, special spellings too."""
    recipe = replace(RECIPE, tokenizer_family=family)
    # A Unigram that lacks one of the characters of "<0x41>" would take the byte token for it.
    tokenizer = make_tokenizer(recipe, [d.text for d in CORPUS.split("sources")] + [string.printable])
    surface = surface_of(tokenizer, family)
    assert surface.family == FAMILIES[family]
    assert 300 < surface.vocabulary_size <= 400
    for text in [*TEXTS, *(d.text for d in CORPUS.split("validation"))]:
        tokens = surface.tokenize(text)
        assert tokens.ends[-1] == len(text.encode())
        assert tokens.input_ids[0] == surface.bos_id
        assert tokens.input_ids[-1] == surface.eos_id


@pytest.mark.parametrize("architecture", ["llama", "mpt"])
def test_models_have_the_recipes_shape_and_tied_weights(architecture: str) -> None:
    model = make_model(replace(RECIPE, architecture=architecture), 400)
    assert model.config.model_type == architecture
    assert model.get_input_embeddings().weight.shape == (400, 32)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model(torch.arange(128)[None]).logits.shape == (1, 128, 400)


@pytest.mark.parametrize("architecture", ["llama", "mpt"])
def test_tied_weights_are_saved_and_loaded(architecture: str, tmp_path: Path) -> None:
    """Equal logits, and still one tensor."""
    torch.manual_seed(0)
    model = make_model(replace(RECIPE, architecture=architecture), 400).eval()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    ids = torch.arange(50)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


@pytest.mark.parametrize("vocabulary_size", [330, 350, 380, 400])
def test_a_unigram_is_the_same_however_often_it_is_trained(vocabulary_size: int) -> None:
    """The trainer's own scores differ from one time to the next, in one process as between two, with any threads."""
    recipe = replace(RECIPE, tokenizer_family="unigram", vocabulary_size=vocabulary_size)
    texts = [d.text for d in CORPUS.split("sources")]
    states = {make_tokenizer(recipe, texts).backend_tokenizer.to_str() for _ in range(4)}
    assert len(states) == 1
    model = json.loads(states.pop())["model"]
    scores = [score for _, score in model["vocab"][259:]]
    assert model["vocab"][model["unk_id"]][0] == "<unk>"
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "like"}, "architecture is 'like' and its like is None: set like to a config.json"),
        (
            {"like": {"model_type": "llama"}},
            "architecture is 'llama' and its like is {'model_type': 'llama'}: set like",
        ),
        ({"max_steps": -1}, "a recipe's max_steps is -1: it must be at least 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(RECIPE, **settings)
