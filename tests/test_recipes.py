"""Small LLMs made from nothing: once, and again from their files."""

import json
import string
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from experiments_for_tests import documents

from knowfuse.corpus import Corpus
from knowfuse.recipes import make_model, make_tokenizer, materialise
from knowfuse.surface import surface_of
from knowfuse.types import LLMSpec, Recipe

CORPUS = Corpus(
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


@pytest.mark.parametrize(("architecture", "family"), [("llama", "unigram"), ("mpt", "byte_level_bpe")])
def test_a_recipe_is_made_once(
    architecture: str,
    family: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It learns something; a second call finds the same files, takes no lock and says so; nothing unfinished is left."""
    spec = LLMSpec(recipe=replace(RECIPE, architecture=architecture, tokenizer_family=family))
    llm = materialise("mine", spec, CORPUS, tmp_path)
    assert "made before" not in capsys.readouterr().out
    assert llm.name == "mine"
    assert llm.context_length() == 128
    files = {p.relative_to(tmp_path).parts[1:]: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {parts[-1] for parts in files}
    assert not [parts for parts in files if "fit" in parts or parts[0].endswith(".part")]
    monkeypatch.setattr("knowfuse.folder.FileLock", None)
    assert materialise("mine", spec, CORPUS, tmp_path) == llm
    assert "source mine: made before" in capsys.readouterr().out
    assert files == {
        p.relative_to(tmp_path).parts[1:]: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()
    }
    surface, model = llm.surface(), llm.load()
    ids = torch.from_numpy(surface.tokenize("    def __init__(self").input_ids)[None]
    with torch.no_grad():
        nats = model(ids, labels=ids).loss
    assert nats < 0.95 * torch.log(torch.tensor(float(surface.vocabulary_size)))


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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_recipe_makes_the_same_llm(family: str, tmp_path: Path) -> None:
    """Bit by bit, in another cache; another seed makes another."""
    spec = LLMSpec(recipe=replace(RECIPE, tokenizer_family=family, max_steps=3))
    one, same = (materialise("mine", spec, CORPUS, tmp_path / folder) for folder in ("a", "b"))
    assert spec.recipe is not None
    other = materialise("mine", LLMSpec(recipe=replace(spec.recipe, seed=1)), CORPUS, tmp_path / "a")
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.folder.name == same.folder.name != other.folder.name


def test_other_text_makes_another_llm(tmp_path: Path) -> None:
    spec = LLMSpec(recipe=replace(RECIPE, max_steps=1))
    less = Corpus("less", CORPUS.documents[1:])
    one, other = (materialise("mine", spec, corpus, tmp_path) for corpus in (CORPUS, less))
    assert one.folder != other.folder


def test_an_interrupted_recipe_is_made_anew(tmp_path: Path) -> None:
    """What a killed process left is not taken for a finished LLM."""
    spec = LLMSpec(recipe=replace(RECIPE, max_steps=1))
    folder = materialise("mine", spec, CORPUS, tmp_path).folder
    unfinished = folder.rename(folder.with_suffix(".part"))
    (unfinished / "model.safetensors").write_bytes(b"half")
    again = materialise("mine", spec, CORPUS, tmp_path)
    assert again.load() is not None
    assert not unfinished.exists()


def test_a_domain_without_documents(tmp_path: Path) -> None:
    spec = LLMSpec(recipe=replace(RECIPE, domain="poems"))
    message = (
        r"recipe 'mine' learns from domain 'poems', of which corpus 'tiny' has no documents .*\['code'\]\): set its"
    )
    with pytest.raises(ValueError, match=message):
        materialise("mine", spec, CORPUS, tmp_path)
