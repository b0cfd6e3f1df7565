"""How does a recipe become an LLM? Its tokenizer and its model, trained on first use and kept in the cache."""

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import lightning as L
import torch

from knowfuse.files import make_folder_once
from knowfuse.llms.attention import require_attention, require_kernel
from knowfuse.llms.local import LocalLLM, architecture_of, localize
from knowfuse.llms.recipes import config_of, make_model, make_tokenizer
from knowfuse.losses import LmWeight, fused_linear_loss
from knowfuse.screen import say
from knowfuse.surface import surface_of
from knowfuse.text.corpus import Corpus
from knowfuse.text.documents import Documents
from knowfuse.traces.served import ServedLLM
from knowfuse.training.data import FusionDataModule
from knowfuse.training.fit import fit, load_best
from knowfuse.training.module import FusionModule
from knowfuse.types import LLMSpec, Recipe

RECIPES = "recipes"  # in the cache
MOST = 4000  # documents of the fusion text that a tokenizer is made of


def materialise(name: str, spec: LLMSpec, corpus: Corpus, cache: Path) -> LocalLLM:
    """The LLM of a recipe, from the cache or made now; keyed by the recipe and the text it learns from."""
    recipe = spec.recipe
    assert recipe is not None
    require_attention(name, spec)
    require_kernel(name, spec.attention, architecture_of(config_of(recipe, recipe.vocabulary_size)))
    texts = _texts(recipe, corpus).names
    if not texts:
        raise ValueError(
            f"recipe {name!r} learns from domain {recipe.domain!r}, of which corpus {corpus.name!r} has no documents on its "
            f"'sources' side (domains: {corpus.domains}): set its domain, or give a path to a trained LLM"
        )
    its = {key: value for key, value in asdict(recipe).items() if key != "like" or value is not None}
    state = json.dumps([its, sorted(texts)])
    folder = cache / RECIPES / f"{name}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
    if not make_folder_once(folder, partial(_make, name, recipe, corpus)):
        say(f"source {name}: made before ({folder.name})")
    return localize(name, replace(spec, path=str(folder), recipe=None), cache)


def _texts(recipe: Recipe, corpus: Corpus) -> Documents:
    """What it learns from; where it names no domain, every other document of those that are fused on, by its seed."""
    if recipe.domain is not None:
        return corpus.split("sources", domain=recipe.domain)
    return corpus.split("fusion")[recipe.seed % 2 : MOST : 2]


def is_made(llm: LocalLLM | ServedLLM, cache: Path) -> bool:
    """Whether an LLM came of a recipe."""
    return llm.spec.path is not None and cache / RECIPES in Path(llm.spec.path).parents


def _make(name: str, recipe: Recipe, corpus: Corpus, folder: Path) -> None:
    """Train tokenizer and model, and save them in the folder."""
    documents = _texts(recipe, corpus)
    tokenizer = make_tokenizer(recipe, [d.text for d in documents])
    tokenizer.save_pretrained(folder)
    surface = surface_of(tokenizer, name)
    if recipe.max_steps == 0:
        L.seed_everything(recipe.seed, verbose=False)
        model = make_model(recipe, surface.vocabulary_size)
        model.config.bos_token_id, model.config.eos_token_id = surface.bos_id, surface.eos_id
        model.save_pretrained(folder)
        return
    data = FusionDataModule(
        documents,
        corpus.split("validation", domain=recipe.domain),
        surface,
        block_tokens=recipe.context_length,
        batch_blocks=max(1, recipe.batch_tokens // recipe.context_length),
        seed=recipe.seed,
    )
    L.seed_everything(recipe.seed, verbose=False)
    module = FusionModule(
        LocalLLM(name, LLMSpec(path=str(folder)), fingerprint=name),
        fusion=None,
        loss=fused_linear_loss,
        optimizer=partial(torch.optim.AdamW, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True),
        lm_weight=LmWeight(1.0),
        schedule="cosine",
        warmup_steps=recipe.max_steps // 20,
        weight_decay=0.1,
        build=partial(make_model, recipe, surface.vocabulary_size),
        eos_id=surface.eos_id,
    )
    trainer = partial(
        L.Trainer,
        accelerator="cpu",
        devices=1,
        max_steps=recipe.max_steps,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=None,
        val_check_interval=recipe.max_steps,
        log_every_n_steps=recipe.max_steps,
    )
    best = fit(f"source {name}", folder / "fit", module, data, trainer, recipe.learning_rate)
    load_best(module, folder / "fit", best).network.save_pretrained(folder)
    shutil.rmtree(folder / "fit")
