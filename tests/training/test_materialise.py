"""LLMs of recipes: made once, and again from their files."""

from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from recipes_for_tests import CORPUS, RECIPE

from knowfuse.text.corpus import Corpus
from knowfuse.training.materialise import materialise
from knowfuse.types import LLMSpec, Recipe


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
    monkeypatch.setattr("knowfuse.files.lock_file", None)
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


@pytest.mark.parametrize("family", get_args(get_type_hints(Recipe)["tokenizer_family"]))
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
    less = Corpus.of("less", CORPUS.documents[1:])
    one, other = (materialise("mine", spec, corpus, tmp_path) for corpus in (CORPUS, less))
    assert one.folder != other.folder


def test_an_interrupted_recipe_is_made_anew(tmp_path: Path) -> None:
    """What a killed process left is not taken for a finished LLM."""
    spec = LLMSpec(recipe=replace(RECIPE, max_steps=1))
    folder = materialise("mine", spec, CORPUS, tmp_path).folder
    unfinished = folder.rename(folder.with_name(f"{folder.name}.12345.part"))
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
