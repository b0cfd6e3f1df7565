"""The target of a finished run as a folder of transformers."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import hydra
import pytest
import torch
from chats_for_tests import chat_llm, chat_tokenizer
from commands_for_tests import FORKED_AND_STARTED, Run, run_python
from experiments_for_tests import TINY_TRAINING, composed, forward_passes, local_llm
from huggingface_hub import ModelCard
from omegaconf import OmegaConf
from peft import AutoPeftModelForCausalLM
from tokenizers import Regex, pre_tokenizers
from tokenizers_for_tests import llama
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast, Qwen2Config

from knowfuse.export import __main__ as command
from knowfuse.export import export
from knowfuse.export.model_card import model_card
from knowfuse.ids import hex_names
from knowfuse.llms.finetune import adapters, lora
from knowfuse.llms.local import localize
from knowfuse.llms.packed import packed_logits
from knowfuse.report.left import left_by
from knowfuse.runs.compared import compared
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.folder import load_run
from knowfuse.runs.judged import Judged
from knowfuse.surface.loading import save_tokenizer
from knowfuse.text.document import Document
from knowfuse.traces.index import from_bytes
from knowfuse.training.fit import load_best
from knowfuse.types import MASS_CLASSES, LLMSpec

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
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in (run / "fused").iterdir()
    }
    card = model_card(left_by(run), "fused", experiment.target, experiment.sources, "fused", is_adapter=False)
    assert (run / "fused" / "README.md").read_text() == card
    assert not list(run.glob("*.part"))
    os.umask(umask := os.umask(0))
    assert {p.stat().st_mode & 0o777 for p in (run / "fused").iterdir()} == {0o666 & ~umask}


def test_a_target_leaves_without_its_sources_into_the_folder_behind_a_link(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be gone by then; and a link to an empty folder, on a larger disk, stays one."""

    def refuse(self: Experiment, *_: object) -> None:
        raise AssertionError("sources are prepared")

    monkeypatch.setattr(Experiment, "prepare", refuse)
    (tmp_path / "large").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large")
    command.main(composed("export", f"run={run}", f"folder={tmp_path / 'link'}"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "large" / "model.safetensors").is_file()


def test_an_export_that_is_finished_may_be_asked_for_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a kill behind its end. Other weights, settings or files are refused, and nothing is touched."""
    folder = tmp_path / "mine"
    asked = [f"run={run}", "method=clm", f"folder={folder}"]
    command.main(composed("export", *asked))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    capsys.readouterr()
    with forward_passes() as passes:
        command.main(composed("export", *asked))
    assert "is finished: this very command made it before" in " ".join(capsys.readouterr().out.split())
    assert not passes
    for other in (["method=fused"], ["dtype=bfloat16"]):
        with pytest.raises(ValueError, match="is there already, and nothing is overwritten"):
            command.main(composed("export", *asked, *other))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (folder / "README.md").write_text("my own card")
    with pytest.raises(ValueError, match="is there already, and nothing is overwritten"):
        command.main(composed("export", *asked))
    assert (folder / "README.md").read_text() == "my own card"


@FORKED_AND_STARTED
def test_the_baseline_in_another_dtype_and_as_gguf(by: Run, run: Path, tiny_cache: Path, tmp_path: Path) -> None:
    """llama.cpp's converter is stood in for."""
    (tmp_path / "there").mkdir()
    (tmp_path / "convert.py").write_text("import sys; open(sys.argv[3], 'w').write(sys.argv[5])")
    more = ["method=clm", "dtype=bfloat16", f"folder={tmp_path / 'there'}", "gguf=q8_0"]
    more += [f"converter={tmp_path / 'convert.py'}"]
    by("-m", "knowfuse.export", f"run={run}", *more, cache=tiny_cache).well()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "there").dtype == torch.bfloat16
    assert (tmp_path / "there" / "there-q8_0.gguf").read_text() == "q8_0"
    card = (tmp_path / "there" / "README.md").read_text()
    assert "was trained on its text alone, by plain CLM" in card
    assert "source" not in card.partition("## Results")[0], "none had a say"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "run is not set, nor is traces: give one of them the folder of a finished run"),
        (["run={run}", "traces={run}"], "run and traces are both set: give one of them the folder of a finished run"),
        (["traces={run}", "gguf=q8_0"], "gguf is of weights, and traces= exports none: leave it out"),
        (["traces={run}", "folder={run}"], "is there already, and nothing is overwritten: set folder= to another"),
        (["traces={new}"], "is not the folder of a finished run, it has no config.yaml"),
        (["run={run}", "method=other"], "has no method 'other': choose one of ['clm', 'fused']"),
        (["run={run}", "dtype=int8"], "dtype is 'int8': choose one of"),
        (["run={run}", "merge=false", "gguf=q8_0"], "gguf is of whole weights, and merge=false exports adapters alone"),
        (["run={run}", "folder={run}"], "is there already, and nothing is overwritten: set folder= to another"),
        (["run={run}", "folder={new}", "gguf=q8_0", "converter=/none"], "it is not in '/none': git clone"),
        (["run={run}", "folder={new}", "push_to_hub=it"], "push_to_hub is 'it', and HF_HUB_OFFLINE is set"),
        (["run={run}", "folder={new}", "merge=false"], "trained its target whole: it has no adapters, leave merge out"),
    ],
)
def test_what_cannot_be_exported_is_refused(run: Path, tmp_path: Path, settings: list[str], message: str) -> None:
    given = [setting.format(run=run, new=tmp_path / "new") for setting in settings]
    with pytest.raises(ValueError, match=re.escape(message)):
        command.main(composed("export", *given))
    assert not list(tmp_path.iterdir())


def test_the_card_says_what_the_files_of_the_run_say(run: Path) -> None:
    """Results and intervals are those that `evaluate.py compare=` gives; shares, coverage and mass those of the fused fit."""
    experiment = hydra.utils.instantiate(load_run(run)[1], _convert_="all")
    card = ModelCard(
        model_card(left_by(run), "fused", experiment.target, experiment.sources, "mine/it", is_adapter=False)
    )
    assert [card.data.get(key) for key in ("library_name", "license", "base_model")] == [
        "transformers",
        "unknown",
        None,
    ]
    tables = {title: rows_of(text) for title, _, text in (part.partition("\n") for part in card.text.split("\n## "))}
    results, kept = json.loads((run / "results.json").read_text()), compared([str(run)], no_llm)
    rows = {name: cells for name, *cells in tables["Results"][1:]}
    assert rows.keys() == results["rows"].keys() == kept.rows.keys()
    for name, bits in results["rows"].items():
        whole = kept.rows[name].bits_per_byte["mean"]
        interval = f"{bits['mean']:.4f} ({whole.low:.4f} to {whole.high:.4f})"
        assert rows[name][:4] == [*(f"{bits[domain]:.4f}" for domain in ("code", "docs", "prose")), interval]
    assert f"95 % intervals: {kept.documents} documents" in card.text
    fused = results["fits"]["fused"]
    said, domains = fused["sources"], list(fused["sources"]["labelled"])
    shares = [
        [name, *(f"{by[d]:.1%}" for d in domains)] for what in ("share", "coverage") for name, by in said[what].items()
    ]
    heading = ["", *domains]
    assert tables["Who won where"] == [heading, *shares[:3], heading, *shares[3:]]
    mass = {kind: figures for kind, _, *figures in tables["Where the sources' probability went"][1:]}
    assert mass == {kind: [f"{its[kind]:.1%}" for its in said["mass"].values()] for kind in MASS_CLASSES}
    tokens, bits = fused["history"][-1]
    assert f"{bits:.4f} bits per byte after {tokens:,} training tokens" in card.text
    assert ["lambda (weight of CLM)", "0.3 to 1, headroom"] in tables["Recipe"]
    (command_line,) = re.findall(r"```bash\n(.*)\n```", card.text)
    assert shlex.split(command_line)[2:] == [str(word) for word in OmegaConf.load(run / ".hydra" / "overrides.yaml")]


def test_the_traces_of_a_run_serve_in_place_of_its_sources(run: Path, tiny_cache: Path, tmp_path: Path) -> None:
    """Those of its documents alone: other tests read others into the same stores."""
    folder = tmp_path / "traces"
    command.main(composed("export", f"traces={run}", f"folder={folder}"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    command.main(composed("export", f"traces={run}", f"folder={folder}"))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "it is finished"
    settings = load_run(run)[1]
    settings["tracing"]["place"] = str(folder)
    experiment = hydra.utils.instantiate(settings, _convert_="all")
    with forward_passes() as passes:
        prepared = experiment.prepare()
    assert not passes, "nothing is read again"
    names = {document.id for document in prepared.corpus.split("fusion")}
    for source in prepared.sources.values():
        assert source.store.folder.path.parent == folder
        for shard in source.store.folder.path.glob("*.index"):
            assert set(hex_names(from_bytes(shard.read_bytes()).ids)) <= names
    card = (folder / "README.md").read_text()
    assert f"| {len(names)} | 0 |" in card
    assert "10 most probable tokens a row" in card


def rows_of(text: str) -> list[list[str]]:
    """The cells of the Markdown tables in a text, without the lines below their headings."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if line[0].strip() != "---"]


def no_llm(run: Judged) -> tuple[Sequence[Document], Path]:
    raise AssertionError("a run is compared by its own files")


def test_a_card_names_licences_and_no_place_of_this_machine(run: Path, tmp_path: Path) -> None:
    """Of a target on the hub it is the base; an older run without figures by document has no intervals, and says so."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "README.md").write_text(
        "---\nlicense: other\nlicense_name: a|b\nlicense_link: https://l\n---\n"
    )
    left = left_by(run)
    assert left.settings is not None
    left = replace(left, settings={**left.settings, "corpus": {"files": {"mine": [str(tmp_path / "a.txt")]}}})
    left = replace(left, overrides=None, documents=None, why={".hydra/overrides.yaml": "gone", "documents.csv": "old"})
    for name, licence in (("one", "llama2"), ("two", "[mit, apache-2.0]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
        its = ModelCard(model_card(left, "fused", LLMSpec(path=str(tmp_path / name)), {}, "me/mine", is_adapter=False))
        assert its.data.get("license") == {"one": "llama2", "two": "unknown"}[name], "the hub takes one"
    target = LLMSpec(path="org/it", chat_variables={"thinking": False})
    sources = {"theirs": LLMSpec(path=str(tmp_path / "theirs")), "it": target}
    card = ModelCard(model_card(left, "fused", target, sources, "me/mine", is_adapter=True))
    assert (card.data.get("base_model"), card.data.get("base_model_relation")) == ("org/it", "adapter")
    assert "[org/it](https://huggingface.co/org/it) | not said |" in card.text
    assert "| source theirs | `theirs`, a folder | [a\\|b](https://l) |" in card.text
    assert (
        "- source theirs: theirs is under a licence of its own, a|b; nothing is blocked, read it (https://l)"
        in card.text
    )
    assert "- source it: org/it says no licence" in card.text
    assert str(tmp_path) not in card.text
    assert "Without intervals (documents.csv: old)." in card.text
    assert "The command is not kept (gone)." in card.text
    assert "AutoPeftModelForCausalLM" in card.text
    assert "{'thinking': False}" in card.text


def test_adapters_go_out_as_peft_reads_them(tmp_path: Path) -> None:
    """Beside the base that the export names, the very logits of the model with its adapters."""
    llm = local_llm(tmp_path / "llm")
    model = lora(llm, rank=4, alpha=8.0, dropout=0.1, target_modules="all-linear").eval()
    for layer in adapters(model).values():
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    export(model, llm, tmp_path / "mine")
    assert "model.safetensors" not in {path.name for path in (tmp_path / "mine").iterdir()}
    loaded, ids = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "mine"), torch.arange(1, 33)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
        assert not torch.allclose(loaded(input_ids=ids).logits, llm.load()(input_ids=ids).logits, atol=0.1)
    export(model, llm, tmp_path / "other", base="org/it")
    assert json.loads((tmp_path / "other" / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/it"


def test_the_chat_template_is_the_one_that_it_was_trained_with(tmp_path: Path) -> None:
    llm = local_llm(tmp_path / "llm", chat_template="plain")
    export(llm.load(), llm, tmp_path / "mine")
    tokenizer, hello = AutoTokenizer.from_pretrained(tmp_path / "mine"), [{"role": "user", "content": "Hello"}]
    assert tokenizer.apply_chat_template(hello, tokenize=False) == "<s>user:\nHello</s>\n"
    asked = tokenizer.apply_chat_template(hello, tokenize=False, add_generation_prompt=True)
    assert asked == "<s>user:\nHello</s>\nassistant:\n", "what it has learnt to go on from"


def test_one_that_learnt_conversations_stops_where_its_template_ends_an_answer(tmp_path: Path) -> None:
    llm = localize("mine", LLMSpec(path=str(chat_llm(tmp_path / "llm", "chatml"))))
    own = llm.load().generation_config.eos_token_id
    for is_chat, stops in ((False, own), (True, [chat_tokenizer("chatml").convert_tokens_to_ids("<|im_end|>"), own])):
        export(llm.load(), llm, tmp_path / str(is_chat), is_chat=is_chat)
        assert GenerationConfig.from_pretrained(tmp_path / str(is_chat)).eos_token_id == stops


def test_a_folder_is_not_there_where_something_beside_the_weights_fails(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        assert (folder / "model.safetensors").exists()
        raise ValueError("no room")

    llm = local_llm(tmp_path / "llm")
    with pytest.raises(ValueError, match="no room"):
        export(llm.load(), llm, tmp_path / "mine", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["llm"]


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
