"""`python -m knowfuse.plan`: what it prints."""

import re
from pathlib import Path

import pytest
from commands_for_tests import FORKED_AND_STARTED, Run, ended
from experiments_for_tests import composed
from hydra.errors import InstantiationException
from transformers import LlamaConfig

from knowfuse.commands.command import refusal
from knowfuse.plan.__main__ import assumptions, main, make_plan, show
from knowfuse.plan.advice import candidates
from knowfuse.plan.settings import training_shape
from knowfuse.runs.described import experiment_of
from knowfuse.screen import console


def printed(*overrides: str, by: Run = ended) -> str:
    done = by("-m", "knowfuse.plan", *overrides, cache=Path("/"))
    return done.stdout + done.stderr


def test_the_papers_run_is_planned() -> None:
    """Its training takes about what the paper says, 33 hours on 8 x A100, and needs no weights."""
    out = printed("experiment=fusellm_7b", "trainer=fsdp", "trainer.devices=8")
    assert "6.74 B parameters" in out
    assert "6.65 B" in out
    row = next(line for line in out.splitlines() if "A100 40 GB" in line)
    training_hours = float(re.findall(r"[\d.,]+", row)[-1])
    assert 20 < training_hours < 40
    assert "the training does not fit" not in out
    assert "WARNING: source llama2: meta-llama/Llama-2-7b-hf is under llama2, which forbids" in out
    assert "source mpt:" not in out, "it is under apache-2.0"


@pytest.mark.parametrize(
    ("more", "fits", "sources"),
    [([], 2, 2), (["compare_with_direct=true"], 3, 3), (["compare_with_direct=true", "compare_with_clm=true"], 4, 3)],
)
def test_a_line_of_pairs_is_planned(more: list[str], fits: int, sources: int) -> None:
    """A fit for each pair; a conversation, which is not cut, is a block at the longest."""
    shape = training_shape(composed("plan", "experiment=fusechat_7b", "trainer.devices=8", *more))
    assert (shape.fits, shape.num_sources, shape.document_tokens) == (fits, sources, 2048)
    assert shape.steps * 128 == pytest.approx(3 * 95_000, rel=1e-3)


@FORKED_AND_STARTED
def test_the_quickstart_is_planned(by: Run) -> None:
    out = printed(by=by)
    assert "1.24 M parameters" in out
    assert "60,000 bytes of text" in out
    assert "WARNING" not in out


@pytest.mark.parametrize(
    "overrides",
    [
        ["room=0.00035", "top_k=64"],
        pytest.param(["experiment=fusellm_7b", "trainer=gpu", "gpu=l40s_48gb"], marks=pytest.mark.long),
    ],
    ids=["quickstart", "7b"],
)
def test_what_does_not_fit_is_said_with_what_would(overrides: list[str]) -> None:
    """The quickstart on 28 MB of a GPU; Llama-2-7B with Adam on one: sharded over several they fit."""
    out = " ".join(printed(*overrides).split())
    assert re.search(
        r"WARNING: the training does not fit: .* usable; with .*trainer=fsdp trainer.devices=\d.* it does", out
    )


def test_of_a_served_source_only_disk_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No server is asked; the other sources, and its own traces, are planned as they were."""
    paper = ["experiment=fusellm_7b", "trainer=fsdp", "trainer.devices=8"]
    served = [*paper, "+sources.llama2.server=http://127.0.0.1:9/v1"]
    cfgs = [composed("plan", *overrides) for overrides in (paper, served)]
    config = LlamaConfig(vocab_size=32000, num_hidden_layers=2)
    plans = [make_plan(cfg, config, dict.fromkeys(cfg.sources, config)) for cfg in cfgs]
    here, there = (plan.readings for plan in plans)
    assert (there["llama2"].parameters, there["llama2"].memory, there["llama2"].flops) == (None, 0, 0.0)
    assert there["llama2"].disk == here["llama2"].disk > 0
    assert there["mpt"] == here["mpt"]
    monkeypatch.setattr(console, "width", 160)
    show(plans[1])
    assert re.search(r"llama2 +│ +on its server │ +0\.00 │ +0\.00 │ +0\.00 │ +\d", capsys.readouterr().out)
    assert "served elsewhere, needs nothing here but disk for its traces: llama2" in assumptions(plans[1], cfgs[1])


def test_a_target_that_cannot_train_is_not_planned() -> None:
    assert "the target has device_map=auto" in printed("experiment=fusellm_7b", "+target.device_map=auto")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("utilisation=0", "utilisation is 0: it is a share"),
        ("utilisation=-1", "utilisation is -1: it is a share"),
        ("room=1.5", "room is 1.5: it is a share"),
        ("gpu=tpu", "gpu is 'tpu': choose one of"),
        ("corpus_bytes=-5", "corpus_bytes is -5"),
    ],
)
def test_settings_that_are_none_are_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(composed("plan", override), LlamaConfig(), {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["router_loss=0.1"],
            "router_loss is 0.1, and transformers has no loss that balances experts for LlamaForCausalLM",
        ),
        (
            ["finetune=lora", "finetune.target_modules=[experts]"],
            "a linear layer 'experts' is not found in its text model",
        ),
        (["top_k=0"], "alignment 'byte_exact' needs the tokens that a source finds most probable, and top_k is 0"),
        (
            ["+sources.mpt.attention=flash_attention_2"],
            "cannot attend by flash_attention_2: it computes in bfloat16 and float16",
        ),
        (["debug=self"], "debug=self trains nothing, and a plan is of a training"),
        (
            ["~trainer.max_steps"],
            "trainer.max_steps is not set, and the schedules of learning rate and lm_weight are over",
        ),
    ],
)
def test_what_train_refuses_is_not_planned(overrides: list[str], message: str) -> None:
    with pytest.raises((InstantiationException, ValueError)) as error:
        main(composed("plan", *overrides))
    assert message in str(refusal(error.value))


def test_all_that_is_advised_trains() -> None:
    """`batch_blocks=1` with as many batches a step is validated as often, and composes to a run."""
    shape = training_shape(composed("plan", "batch_blocks=4"))
    for overrides in candidates(shape):
        if not {"trainer=fsdp", "finetune=qlora"} & set(overrides):
            experiment_of(composed("plan", "batch_blocks=4", *overrides))
