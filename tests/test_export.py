"""The target of a finished run as a folder of transformers."""

import json
import os
import shutil
from pathlib import Path

import hydra
import pytest
import torch
from commands_for_tests import run_python, start_python
from experiments_for_tests import TINY_TRAINING, local_llm
from tokenizers import Regex, pre_tokenizers
from tokenizers_for_tests import llama
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config

from knowfuse.export import export
from knowfuse.llms.local import localize
from knowfuse.llms.packed import packed_logits
from knowfuse.runs.folder import load_run
from knowfuse.surface.loading import save_tokenizer
from knowfuse.training.fit import load_best
from knowfuse.types import LLMSpec

ONE_IN_SHARDS = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=1"]
SHORT = ["trainer.max_steps=2", "trainer.val_check_interval=2", "name=mine"]


@pytest.fixture(scope="module")
def run(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose checkpoints are in shards; activations are in bfloat16, and checkpointed."""
    folder = tmp_path_factory.mktemp("user")
    settings = [*TINY_TRAINING, *ONE_IN_SHARDS, *SHORT, "activation_checkpointing=true"]
    run_python("train.py", *settings, f"hydra.run.dir={folder / 'run'}", cache=tiny_cache)
    return folder / "run"


def test_an_exported_target_gives_the_logits_of_the_best_checkpoint(run: Path, tiny_cache: Path) -> None:
    """Bit by bit, in shards before; and it serves as the `path:` of an LLM, whose tokenizer is the target's."""
    run_python("-m", "knowfuse.export", f"run={run}", cache=tiny_cache)
    _, settings, fits = load_run(run)
    assert (run / "fits" / fits["fused"].name / "best.ckpt").is_dir(), "in shards"
    experiment = hydra.utils.instantiate(settings, _convert_="all")
    prepared = experiment.prepare()
    kept = fits["fused"]
    best = load_best(experiment.module(prepared, "fused", kept.learning_rate), run / "fits" / kept.name, kept).network
    ids = torch.arange(1, 33)[None]
    rows = (ids, torch.arange(32)[None], torch.ones_like(ids))
    exported = localize("exported", LLMSpec(path=str(run / "fused")))
    with torch.no_grad():
        want = packed_logits(best.eval(), *rows)
        assert torch.equal(packed_logits(AutoModelForCausalLM.from_pretrained(run / "fused"), *rows), want)
        assert torch.equal(packed_logits(exported.load(), *rows), want)
        assert not torch.equal(packed_logits(prepared.target.load(), *rows), want), "it has learned"
    assert exported.surface().fingerprint == prepared.target_surface.fingerprint
    assert exported.context_length() == prepared.target.context_length()
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in (run / "fused").iterdir()
    }
    assert not list(run.glob("*.part"))
    os.umask(umask := os.umask(0))
    assert {p.stat().st_mode & 0o777 for p in (run / "fused").iterdir()} == {0o666 & ~umask}


def test_the_baseline_in_another_dtype(run: Path, tiny_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    more = ["method=clm", "dtype=bfloat16", f"folder={tmp_path / 'there'}"]
    start_python("-m", "knowfuse.export", f"run={run}", *more, cache=tiny_cache)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "there").dtype == torch.bfloat16


def test_the_exported_tokenizer_cuts_as_the_target_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the tokenizer.json, where the class of transformers cuts otherwise; said where plain transformers takes it all the same."""
    llm = local_llm(tmp_path / "llm", "mpt")
    its = llm.tokenizer()
    vowels = pre_tokenizers.Split(Regex("[aeiou]"), "isolated")
    its.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([vowels, its.backend_tokenizer.pre_tokenizer])
    its.save_pretrained(tmp_path / "llm")
    config = tmp_path / "llm" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": "GPT2Tokenizer"}))
    text = "Wrap a single paragraph of text"
    assert its.tokenize(text) != AutoTokenizer.from_pretrained(tmp_path / "llm").tokenize(text)
    export(llm.load(), llm, tmp_path / "mine")
    assert AutoTokenizer.from_pretrained(tmp_path / "mine").tokenize(text) == its.tokenize(text)
    assert "by which it was trained" not in capsys.readouterr().out
    qwen = Qwen2Config(vocab_size=len(its), hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    qwen.save_pretrained(tmp_path / "qwen")
    save_tokenizer(its, tmp_path / "qwen")
    said = " ".join(capsys.readouterr().out.split())
    assert "AutoTokenizer makes it a Qwen2Tokenizer, which cuts" in said
    assert "load it with transformers.PreTrainedTokenizerFast.from_pretrained" in said
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path / "qwen").tokenize(text) == its.tokenize(text)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    llm = local_llm(tmp_path / "llm")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "llm").iterdir()}
    with pytest.raises(ValueError, match=r"llm' is there already, and nothing is overwritten: set folder= to another"):
        export(llm.load(), llm, tmp_path / "llm")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "llm").iterdir()} == before


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    """The tokenizer cannot be read once the weights are written: nothing stays."""
    llm = local_llm(tmp_path / "llm")
    model = llm.load()
    (tmp_path / "llm" / "tokenizer.json").write_text("{")
    with pytest.raises(Exception, match=r"."):
        export(model, llm, tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["llm"]


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
from .parts import FACTOR

class MineConfig(LlamaConfig):
    model_type = "mine"

class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig

    def forward(self, *arguments, **settings):
        output = super().forward(*arguments, **settings)
        output.logits = FACTOR * output.logits
        return output
"""


def test_code_and_chat_templates_come_along(tmp_path: Path) -> None:
    """Of a target whose code is trusted: plain transformers loads it from the new folder alone, with the same logits."""
    source = local_llm(tmp_path / "llm").folder
    (source / "modeling_mine.py").write_text(CODE)
    (source / "parts.py").write_text("FACTOR = 3.0")
    config = json.loads((source / "config.json").read_text())
    classes = {"AutoConfig": "modeling_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    (source / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": classes}))
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    llm = localize("mine", LLMSpec(path=str(source), trust_remote_code=True))
    model, ids = llm.load(), torch.arange(1, 9)[None]
    export(model, llm, tmp_path / "mine")
    shutil.rmtree(source)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "mine", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "mine", trust_remote_code=True)
    assert tokenizer.chat_template == {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    assert tokenizer("a text").input_ids == llama()("a text").input_ids
