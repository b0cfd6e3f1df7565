"""One experiment: what it refuses at once, what it compares, what it keeps."""

import csv
import gc
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from chats_for_tests import chat
from experiments_for_tests import TINY_TRAINING, composed, run_python
from omegaconf import OmegaConf
from transformers import PreTrainedModel

from knowfuse.alignment.exact_match import exact_match
from knowfuse.fusion.avg_ce import avg_ce
from knowfuse.losses import LmWeight, fused_linear_loss
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.folder import open_run
from knowfuse.runs.headroom import dear_eos, headroom
from knowfuse.settings import require_choices
from knowfuse.training.target import TargetModule
from knowfuse.types import LLMSpec, Recipe


def experiment(*overrides: str) -> Experiment:
    return hydra.utils.instantiate(composed("train", *TINY_TRAINING, *overrides), _convert_="all")


def prepared_by(tiny_cache: Path, run: Path, *overrides: str) -> Any:
    """The experiment, what it prepared, and its run folder with its settings."""
    cfg = composed("train", *TINY_TRAINING, f"cache={tiny_cache}", *overrides)
    made = hydra.utils.instantiate(cfg, _convert_="all")
    with open_run(run, cfg) as opened:
        return made, made.prepare(), opened


@pytest.mark.parametrize("value", ["1.5", "-0.1"])
def test_lambda_outside_0_and_1_is_refused_at_once(value: str) -> None:
    """When the settings are built, before anything is prepared. Hydra's error carries ours."""
    with pytest.raises(hydra.errors.InstantiationException, match=rf"lm_weight .* must lie in \[0, 1\], got {value}"):
        experiment(f"lm_weight={value}")


def test_blocks_that_hold_no_document_are_refused_before_a_source_is_asked(
    tiny_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="no training document fits in block_tokens=4 tokens of the target"):
        experiment("block_tokens=4", f"cache={tiny_cache}").prepare()
    assert "traces" not in capsys.readouterr().out


def test_no_learning_rate_is_refused() -> None:
    with pytest.raises(hydra.errors.InstantiationException, match=r"learning_rates is \[\]: give a list, such as"):
        experiment("learning_rates=[]")


def test_a_setting_of_the_wrong_type_is_refused_with_what_it_must_be(tmp_path: Path) -> None:
    """In a process of its own: the tests' type checker would be first to refuse it."""
    wrong = {
        "learning_rates=1e-3": "learning_rates is 0.001: give a list, such as",
        "clm_learning_rates=1e-3": "clm_learning_rates is 0.001: give a list, such as",
        "learning_rates=[a]": "learning_rates has 'a': a learning rate is a number above 0",
        "seed=abc": "seed is 'abc': it must be a whole number",
        "seed=4294967296": "seed is 4294967296: it must be at most 4294967295, NumPy takes no larger one",
        "+target.target={_target_:knowfuse.types.LLMSpec,path:gpt2}": "target holds another target: the file of conf/target that sets it "
        "has to begin with the line '# @package _global_'",
        "top_k=true": "top_k is True: it must be a whole number",
        "batch_blocks=0.5": "batch_blocks is 0.5: it must be a whole number",
        "lm_weight=null": "lm_weight is None: it must be a number",
        "lm_weight_schedule=null": "lm_weight_schedule is null: choose one of ['constant', 'linear', 'cosine', 'headroom']",
        "weight_decay=heavy": "weight_decay is 'heavy': it must be a number",
        "compare_with_clm=maybe": "compare_with_clm is 'maybe': it must be true or false",
        "cache=null": "cache is None: it must be text",
        "corpus=mine.txt": "corpus is 'mine.txt': it must be settings with a _target_, as --cfg job prints them",
        "tracing=null": "tracing is None: it must be settings with a _target_",
        "loss=tail": "loss is 'tail': it must be settings with a _target_",
        "fusion=avg_ce fusion.temperature=hot": "temperature is 'hot': it must be a number",
        "trainer.max_steps=ten": "trainer.max_steps is 'ten': it must be a whole number",
        "sources.llama2.recipe.learning_rate=fast": "learning_rate is 'fast': it must be a number",
        "lm_weight_schedule=step": "lm_weight_schedule is 'step': choose one of ['constant', 'linear', 'cosine', 'headroom']",
        "schedule=null": "schedule is null: choose one of ['linear', 'cosine'",
        "packing=null": "packing is null: choose one of ['blocks', 'one_document']",
        "fusion=static fusion.weights=null": "fusion.weights is None: give each of the sources ['llama2', 'mpt', 'openllama'] one",
        "schedule=linearr": "schedule is 'linearr': choose one of ['linear', 'cosine'",
        "schedule=reduce_lr_on_plateau": "schedule is 'reduce_lr_on_plateau': choose one of ['linear', 'cosine'",
        "+sources.z={path:x}": "LLM 'z' is {'path': 'x'}: give an LLMSpec, such as {_target_: knowfuse.types",
        "+sources.other=/models/other": "LLM 'other' is '/models/other': give an LLMSpec, such as {_target_: knowfuse.types.LLMSpec, "
        "path: /models/other}",
        "+target.path=gpt2": "a target has a file, so printf '%s\\\\n' '# @package _global_' 'target: {_target_: knowfuse.types.LLMSpec, "
        "path: gpt2}' > conf/target/gpt2.yaml and target=gpt2",
    }
    program = (
        "import sys, hydra\nfrom experiments_for_tests import TINY_TRAINING, composed\n"
        "for override in sys.argv[1:]:\n"
        "    try:\n        hydra.utils.instantiate(composed('train', *TINY_TRAINING, *override.split()), _convert_='all')\n"
        "    except hydra.errors.InstantiationException as error:\n        print(str(error).replace('\\n', ' '))\n"
    )
    said = run_python("-c", program, *wrong, cache=tmp_path, cwd=Path(__file__).parent).splitlines()
    for message in wrong.values():
        assert any(message in line for line in said)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "fusion.granularity=documents",
            r"granularity is 'documents': choose one of \['sequence', 'document', 'token'\]",
        ),
        ("fusion.unit=bit", r"unit is 'bit': choose one of \['byte', 'token'\]"),
        ("loss.form=renormalized", r"form is 'renormalized': choose one of \['tail', 'renormalised'\]"),
        ("router_loss=-0.1", r"router_loss is -0\.1: it must be at least 0, or null for what the LLM says"),
        ("top_k=-1", r"top_k is -1: it must be at least 0"),
        (
            "top_k=0",
            r"alignment 'byte_exact' needs .*, and top_k is 0: set top_k to 1 or more, or alignment=chunk_likelihood",
        ),
        ("weight_decay=-1.0", r"weight_decay is -1\.0: it must be at least 0"),
        ("learning_rates=[1e-3,-1.0]", r"learning_rates has -1\.0: a learning rate is a number above 0"),
        ("learning_rates=[1.0000001e-3,1.0000002e-3]", r"two are the same in six digits, and would share one fit"),
        ("trainer.val_check_interval=0", r"trainer\.val_check_interval is 0: it must be a whole number of at least 1"),
        ("trainer.val_check_interval=9", r"val_check_interval=9 batches is more than the 8 of the whole fit"),
        ("trainer.accumulate_grad_batches=3", r"val_check_interval=2 batches is no multiple of trainer\.accumulate_gr"),
        ("sources.mpt.recipe.num_heads=0", r"a recipe's num_heads is 0: it must be at least 1"),
        ("sources.mpt.recipe.hidden_size=33", r"hidden_size 33 is no multiple of its num_heads 4"),
        ("+loss.lm_weight=0.5", r"loss\.lm_weight would be overridden: set lm_weight instead"),
        ("+optimizer.lr=0.5", r"optimizer\.lr would be overridden: set learning_rates instead"),
        ("optimizer=adamw_8bit trainer=fsdp", r"optimizer AdamW8bit of bitsandbytes .*: set optimizer=adamw, whose"),
        ("loss.gate=worse", r"gate is 'worse': choose one of \['none', 'better'\]"),
        ("loss.divergence=kl", r"divergence is 'kl': choose one of \['forward_kl', 'reverse_kl', 'jensen_shannon'\]"),
        (
            "loss.divergence=reverse_kl loss.form=renormalised",
            r"form=renormalised gives no probability outside the slots",
        ),
        ("loss.beta=1.0", r"loss\.beta is 1\.0: .* at its ends set loss\.divergence to forward_kl \(0\) or reverse_kl"),
        ("loss.temperature=0.0", r"loss\.temperature is 0\.0: it divides logits, and must lie between 0\.01 and 1000"),
        ("fusion=static fusion.weights={llama2:0.5,mpt:0.5}", r"fusion\.weights has no weight for source 'openllama'"),
        (
            "fusion=static fusion.weights={x:1}",
            r"names 'x', which is no source: the sources are \['llama2', 'mpt', 'openllama'\]",
        ),
        (
            "fusion=static fusion.weights={llama2:0.5,mpt:0.4,openllama:0.3}",
            r"fusion\.weights sum to 1\.2: they must sum to 1",
        ),
        (
            "loss.completion=set alignment=rank_matched",
            r"completion=set needs the bytes of tokens, and alignment=rank_matched gi",
        ),
        (
            "loss.completion=set alignment=hybrid",
            r"completion=set needs the bytes of tokens, and alignment=hybrid gives ranks",
        ),
        ("loss.completion=bytes", r"completion is 'bytes': choose one of \['token', 'set'\]"),
        ("loss.balance=equal", r"balance is 'equal': choose one of \['fixed', 'match_clm'\]"),
        (
            "lm_weight_schedule=linear",
            r"lm_weight_schedule is linear and lm_weight_end is not set: set it to the lm_weight of",
        ),
        (
            "lm_weight_schedule=constant lm_weight_end=1.0",
            r"lm_weight_end is 1\.0 and lm_weight_schedule is constant, which has no end: set lm_weight_",
        ),
        ("lm_weight_schedule=cosine lm_weight_end=1.5", r"lm_weight_end .* must lie in \[0, 1\], got 1\.5"),
    ],
)
def test_a_value_that_does_not_exist_is_refused_with_the_choices(override: str, message: str) -> None:
    with pytest.raises(hydra.errors.InstantiationException, match=message):
        experiment(*override.split())


def test_sources_are_llms_with_names_that_folders_may_have() -> None:
    spec = {"_target_": "knowfuse.types.LLMSpec", "path": "x"}
    for sources, message in (
        ({}, "sources is empty: name at least one LLM"),
        ({"a/b": spec}, "a source is named 'a/b': the name is a folder's"),
        ({"target before": spec}, "a source is named 'target before'"),
    ):
        cfg = composed("train", *TINY_TRAINING)
        OmegaConf.set_struct(cfg, False)
        cfg.target, cfg.sources = spec, sources
        with pytest.raises(hydra.errors.InstantiationException, match=message):
            hydra.utils.instantiate(cfg, _convert_="all")


def test_every_literal_of_a_signature_is_a_choice() -> None:
    """Of functions and of dataclasses; what a signature does not list is not looked at."""
    require_choices(avg_ce, {"weighting": "reference", "temperature": -1})
    require_choices(LLMSpec, {"dtype": "float16", "quantization": None})
    for called, settings in (
        (avg_ce, {"weighting": "mean"}),
        (exact_match, {"unaligned": "guess"}),
        (fused_linear_loss, {"gate": "open"}),
        (LLMSpec, {"dtype": "float8"}),
        (LLMSpec, {"quantization": "2bit"}),
        (Recipe, {"architecture": "gpt5"}),
        (Recipe, {"tokenizer_family": "morse"}),
    ):
        ((name, value),) = settings.items()
        with pytest.raises(ValueError, match=rf"{name} is '{value}': choose one of \['"):
            require_choices(called, settings)


def test_the_names_of_the_fits() -> None:
    """One per method and learning rate."""
    both = experiment("learning_rates=[1e-3,2.5e-4]")
    assert both.fit_names == ["clm-lr0.001", "clm-lr0.00025", "fused-lr0.001", "fused-lr0.00025"]
    own = experiment("learning_rates=[1e-3]", "clm_learning_rates=[5e-4,1e-4]")
    assert own.fit_names == ["clm-lr0.0005", "clm-lr0.0001", "fused-lr0.001"]
    assert experiment("compare_with_clm=false").methods == ("fused",)


def test_both_methods_get_the_same_batches_and_learn_otherwise(tiny_cache: Path, tmp_path: Path) -> None:
    made, prepared, _ = prepared_by(tiny_cache, tmp_path)
    clm, fused = made.data(prepared, "clm"), made.data(prepared, "fused")
    one, other = (data.train_blocks.blocks for data in (clm, fused))
    assert len(one) == len(other) > 1
    assert all(map(np.array_equal, one, other))
    assert [s.name for s in fused.train_blocks.sources] == list(prepared.sources) == list(made.sources)
    assert not clm.train_blocks.sources
    modules = [made.module(prepared, method, 1e-3) for method in ("clm", "fused")]
    assert [module.fusion is None for module in modules] == [True, False]
    assert [module.lm_weight for module in modules] == [LmWeight(1.0), LmWeight(0.3, "headroom")]
    assert {module.optimizer.keywords["lr"] for module in modules if isinstance(module.optimizer, partial)} == {1e-3}


def test_every_option_of_the_loss_trains(tiny_cache: Path, tmp_path: Path) -> None:
    """Two steps each of the fused fit, from the configuration to the metrics of its run."""
    short = ["trainer.max_steps=2", "trainer.val_check_interval=2", "compare_with_clm=false"]
    options = ["loss.divergence=reverse_kl", "loss.divergence=jensen_shannon loss.temperature=2.0 loss.completion=set"]
    seen = []
    for n, option in enumerate((*options, "loss.balance=match_clm lm_weight_schedule=linear lm_weight_end=1.0")):
        made, prepared, run = prepared_by(tiny_cache, tmp_path / str(n), *short, *option.split())
        made.train(prepared, "fused", run, {})
        (file,) = run.rglob("metrics.csv")
        rows = [row for row in csv.DictReader(file.open()) if row["train/kl_nats"]]
        seen.append([float(row["train/kl_nats"]) for row in rows])
        for row in rows:
            loss, clm, kl, scale, weight = (
                float(row[f"train/{name}"]) for name in ("loss_nats", "clm_nats", "kl_nats", "kl_scale", "lm_weight")
            )
            assert loss == pytest.approx(weight * clm + (1 - weight) * scale * kl, rel=1e-5)
            assert (scale != 1) == ("match_clm" in option)
    assert [float(row["train/lm_weight"]) for row in rows] == pytest.approx([0.3, 1.0])
    assert len({kl for kl, _ in seen}) == len(seen), "each loss is another"


def test_the_best_learning_rate_is_kept(tiny_cache: Path, tmp_path: Path) -> None:
    """Of two, one of which does nothing; both fits stay in the run folder, with the run's settings beside them."""
    overrides = ["learning_rates=[1e-12,1e-2]", "trainer.max_steps=4"]
    made, prepared, run = prepared_by(tiny_cache, tmp_path, *overrides)
    kept = made.train(prepared, "clm", run, {})
    assert kept.name == "clm-lr0.01"
    assert kept.learning_rate == 1e-2
    assert sorted(p.name for p in (run / "fits").iterdir()) == ["clm-lr0.01", "clm-lr1e-12", "steps.json"]
    logged = OmegaConf.load(run / "fits" / kept.name / "csv" / "version_0" / "hparams.yaml")
    assert logged == {**OmegaConf.load(run / "config.yaml"), "fit": kept.name}
    scores = made.score(prepared, {"clm": kept}, run, prepared.corpus.split("validation"))
    assert list(scores.rows) == [*prepared.sources, "target before", "target clm"]
    assert scores.mean("target clm") < scores.mean("target before")
    # All of validation fits in blocks here: training measured the same, though over all bytes, not over the domains.
    sizes = {d: sum(x.num_bytes for x in prepared.corpus.split("validation", domain=d)) for d in scores.domains}
    over_bytes = sum(scores.rows["target clm"][d] * size for d, size in sizes.items()) / sum(sizes.values())
    assert scores.left_out == 0
    assert kept.best_bits_per_byte == pytest.approx(over_bytes, rel=1e-5)


def test_each_fit_and_each_score_begins_without_the_llm_of_the_last(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever Trainers leave in cycles, and however seldom Python looks for them: here never by itself."""
    made, prepared, run = prepared_by(tiny_cache, tmp_path, "learning_rates=[1e-3,2e-3]", "trainer.max_steps=2")
    loaded: list[weakref.ref[PreTrainedModel]] = []
    alive: list[int] = []
    build = TargetModule.configure_model

    def watch(module: TargetModule) -> None:
        if module.model is not None:
            return
        alive.append(sum(llm() is not None for llm in loaded))
        build(module)
        loaded.append(weakref.ref(module.network))

    # At its first import bitsandbytes logs what it lacks with the frames of whoever asked, and pytest keeps what is logged.
    from transformers import get_scheduler as get_scheduler

    monkeypatch.setattr(TargetModule, "configure_model", watch)
    gc.collect()
    gc.disable()
    try:
        fits = {method: made.train(prepared, method, run, {}) for method in made.methods}
        made.score(prepared, fits, run, prepared.corpus.split("validation"))
    finally:
        gc.enable()
    assert alive == [0] * 6


def test_the_headroom_is_what_the_best_source_per_document_pays(tiny_cache: Path, tmp_path: Path) -> None:
    """At most any source, in every domain; the target before is the source that it copies."""
    _, prepared, _ = prepared_by(tiny_cache, tmp_path)
    table = headroom(prepared)
    assert list(table.rows) == [*prepared.sources, "target before", "oracle over the sources"]
    for domain in table.domains:
        oracle = table.rows["oracle over the sources"][domain]
        assert all(oracle <= table.rows[name][domain] for name in prepared.sources)
    assert table.rows["target before"] == table.rows["llama2"]


def test_a_source_that_does_not_expect_its_eos_is_told_how_to_say_another(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above 6 nats a document; here those of untrained LLMs of about 400 tokens, which pay log(400) = 6.0 for any.

    Of an LLM that was made here there is nothing to say otherwise: a line tells what it costs.
    """
    _, prepared, _ = prepared_by(tiny_cache, tmp_path)
    for limit, is_made, is_said in ((5.0, True, True), (5.0, False, True), (7.0, True, False)):
        monkeypatch.setattr("knowfuse.runs.headroom.DEAR_EOS", limit)
        if not is_made:
            monkeypatch.setattr("knowfuse.training.materialise.RECIPES", "elsewhere")
        capsys.readouterr()
        table = headroom(prepared)
        said = " ".join(capsys.readouterr().out.split())
        line = f"source llama2: its EOS '</s>' costs {table.eos_nats['llama2']:.1f} nats a document"
        assert (line in said) == is_said
        assert (f"{line}: a small LLM, made here in minutes" in said) == (is_said and is_made)
        remedy = (
            f"{line}, more than {limit:g}: it would rather go on there. Either your documents end otherwise than those"
        )
        assert (remedy in said) == ("++sources.llama2.eos=<token>, or null for none" in said) == (not is_made)
        monkeypatch.undo()
    assert table.eos_nats.keys() == table.first_nats.keys() == table.rows.keys()


def test_answers_that_a_source_would_not_end_so_are_not_put_down_to_its_template() -> None:
    """Both that it may come of are named; `eos` is not, by which no conversation is read."""
    said = dear_eos(chat("chatml"), 12.32, is_small=False)
    assert said.startswith(
        "source chatml: its EOS '<|im_end|>' costs 12.3 nats where an answer ends, more than 6: it would rather go on"
    )
    assert "Either your answers end otherwise than those that it learnt from, which no setting mends" in said
    assert "or it learnt another chat template: then set ++sources.chatml.chat_template=<file of Jinja>" in said
    assert "eos=" not in said


def test_documents_that_no_block_holds_are_said(
    tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, prepared, _ = prepared_by(tiny_cache, tmp_path, "block_tokens=40")
    data = made.data(prepared, "clm")
    left_out = len(data.train_blocks.set_aside)
    assert 0 < left_out < len(prepared.corpus.split("fusion"))
    said = " ".join(capsys.readouterr().out.split())
    all_of_it = len(prepared.corpus.split("fusion"))
    assert f"target llama2: {left_out} of {all_of_it} training documents for blocks of 40 (" in said
    assert "%) set aside; the first, " in said
    assert "tokens, 'llama2' can hold 40" in said
