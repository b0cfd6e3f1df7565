"""`+scale=tiny`: the LLMs of a large run, each with its architecture as it is, tiny and random, train and are merged.

Two whole commands, one of them of three runs with a Mixtral among their LLMs: 25 s.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from commands_for_tests import run_python
from experiments_for_tests import ROOT, TINY, composed, documents
from omegaconf import DictConfig, OmegaConf
from transformers import AutoModelForCausalLM

from knowfuse.llms.known import llm_config
from knowfuse.llms.local import architecture_of
from knowfuse.llms.recipes import config_of
from knowfuse.runs.described import experiment_of
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.scaled import scaled

CONF = ROOT / "conf"
SHORT = ["trainer.max_steps=2", "trainer.val_check_interval=2", "num_workers=0", "samples=0"]


def tiny(*overrides: str) -> Experiment:
    return experiment_of(scaled(composed("train", *overrides), CONF))


@pytest.mark.parametrize("experiment", ["fusellm_7b", "fusechat_7b"])
def test_architectures_stay_and_sizes_do_not(experiment: str) -> None:
    """Class by class, with the shares of heads and experts, and the target still a copy of a source."""
    large = experiment_of(composed("train", f"experiment={experiment}"))
    small = tiny(f"experiment={experiment}", "+scale=tiny")
    assert small.target in small.sources.values()
    assert small.sources.keys() == large.sources.keys()
    assert len({spec.recipe.seed for spec in small.sources.values() if spec.recipe}) == len(large.sources), (
        "each its own"
    )
    for name, spec in large.sources.items():
        theirs, recipe = llm_config(name, spec, CONF), small.sources[name].recipe
        assert recipe is not None
        ours = config_of(recipe, recipe.vocabulary_size)
        assert architecture_of(ours) is architecture_of(theirs)
        model = AutoModelForCausalLM.from_config(ours)
        assert model.num_parameters() < 1_000_000
        assert model(torch.arange(40)[None]).logits.shape == (1, 40, recipe.vocabulary_size)
        heads = [(its.num_attention_heads, getattr(its, "num_key_value_heads", None)) for its in (ours, theirs)]
        if heads[1][1] is not None:
            assert heads[0][0] * heads[1][1] == heads[0][1] * heads[1][0]
        for key in ("num_experts_per_tok", "hidden_act", "rms_norm_eps", "tie_word_embeddings"):
            assert getattr(ours, key, None) == getattr(theirs, key, None)


def test_what_is_small_already_and_what_is_not_asked_for_stay() -> None:
    cfg = composed("train", "+scale=tiny")
    assert scaled(cfg, CONF).sources == cfg.sources
    assert "scale" not in scaled(cfg, CONF)
    same = composed("train")
    assert scaled(same, CONF) is same


def with_target(**spec: Any) -> DictConfig:
    cfg = composed("train", "+scale=tiny")
    cfg.target = OmegaConf.create({"_target_": "knowfuse.types.LLMSpec", **spec})
    return cfg


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"path": "nobody/nothing"},
            "'nobody/nothing' is no folder here with a config.json, and the hub's cache has none",
        ),
        (
            {"path": "/no/such/llm"},
            "'/no/such/llm' is neither a folder here nor on the hub .no id of it looks so.: check the path",
        ),
        (
            {"path": "some/llm", "trust_remote_code": True},
            "'some/llm' brings code of its own, of which scale=tiny makes",
        ),
    ],
)
def test_what_cannot_be_made_tiny_is_refused(spec: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scaled(with_target(**spec), CONF)


def test_an_llm_that_reads_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}')
    recipe = experiment_of(scaled(with_target(path=str(tmp_path)), CONF)).target.recipe
    assert recipe is not None
    with pytest.raises(ValueError, match="model_type 'gemma3' reads pictures too, and is not made small"):
        config_of(recipe, 512)


@pytest.mark.long
def test_fusellm_7b_trains_tiny(tiny_cache: Path, tmp_path: Path) -> None:
    """On the quickstart's text, without a weight, a hub or a GPU."""
    text = [override for override in TINY if override.startswith("corpus.")]
    command = ["train.py", "experiment=fusellm_7b", "+scale=tiny", "data=quickstart", *text, *SHORT]
    run_python(*command, f"hydra.run.dir={tmp_path / 'run'}", cache=tiny_cache)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["rows"].keys() == {"llama2", "openllama", "mpt", "target before", "target fused"}
    assert results["rows"]["target fused"]["mean"] < results["rows"]["target before"]["mean"]


@pytest.mark.long
def test_fusechat_7b_trains_tiny_pair_by_pair(tiny_cache: Path, tmp_path: Path) -> None:
    """On conversations, and its targets are merged: a Mistral that learnt from a Mixtral, and from a Llama."""
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"What is number {n}?"},
                {"from": "gpt", "value": d.text.strip()},
            ]
        }
        for n, d in enumerate(documents(60))
        if d.text.strip()
    ]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = ["corpus.datasets=null", f"corpus.files={{chat: [{tmp_path / 'chat.jsonl'}]}}"]
    text += ["corpus.validation_share=0.2", "corpus.test_share=0.2"]
    command = ["train.py", "experiment=fusechat_7b", "+scale=tiny", *text, *SHORT]
    run_python(*command, f"hydra.run.dir={tmp_path / 'run'}", cache=tiny_cache)
    table = json.loads((tmp_path / "run" / "comparison.json").read_text())["rows"]
    assert list(table) == ["target before", "pairwise, mixtral", "pairwise, solar", "merged, sce"]
    before, *after = (row["bits_per_byte"]["mean"]["value"] for row in table.values())
    assert all(bits < before for bits in after)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "merged")
    assert merged.config.model_type == "mistral"
