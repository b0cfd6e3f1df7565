"""LLMs of a study that are tuned from one: what comes out, and that each is made once."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands_for_tests import ROOT
from experiments_for_tests import documents, local_llm

from knowfuse.evaluation import score_documents
from knowfuse.llms.local import localize
from knowfuse.study import Point, Runs, as_settings, specialist
from knowfuse.text.corpus import Corpus
from knowfuse.types import LLMSpec

HOW = Point(
    "",
    {
        "experiment": "study",
        "trainer.max_steps": 6,
        "trainer.val_check_interval": 3,
        "learning_rates": [1e-2],
        "block_tokens": 96,
        "warmup_steps": 1,
    },
)


def test_a_specialist_knows_its_text_better_and_is_made_once(tmp_path: Path) -> None:
    """By its settings and its text; with the tokenizer of the LLM that it was, which stays as it is."""
    base = local_llm(tmp_path / "base")
    corpus = Corpus.of("code", [*documents(16), *documents(4, "validation")])
    runs = Runs(tmp_path / "runs", ROOT, tmp_path / "cache")
    made = specialist(runs, "code", base, corpus, HOW)
    texts = documents(16)
    paid = [sum(score_documents(llm.load(), llm.surface(), texts, 512, 8192).nats.values()) for llm in (base, made)]
    assert paid[1] < 0.9 * paid[0]
    assert made.surface().fingerprint == base.surface().fingerprint
    before = made.load().state_dict()
    of_the_fused = {"lm_weight_schedule": "headroom", "lm_weight": 0.5, "compare_with_direct": False, "top_k": 5}
    again = specialist(runs, "code", base, corpus, HOW.plus(of_the_fused))
    assert (again.folder, again.fingerprint) == (made.folder, made.fingerprint), "plain CLM uses none of them"
    other = specialist(runs, "code", base, corpus, HOW.plus({"trainer.max_steps": 3}))
    assert other.folder != made.folder
    assert not all(torch.equal(value, before[name]) for name, value in other.load().state_dict().items())


def test_one_that_was_stopped_goes_on_wherever_its_llm_lies_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And wherever the cache is, in which it lay; from its checkpoint, to the same weights."""
    base = local_llm(tmp_path / "base")
    corpus = Corpus.of("code", [*documents(16), *documents(4, "validation")])
    first = specialist(Runs(tmp_path / "runs", ROOT, tmp_path / "cache"), "code", base, corpus, HOW)
    (done,) = (tmp_path / "runs").glob("tuned-*/fits/*/fit.json")
    said = done.read_text()
    done.unlink()  # as if stopped after its last step
    shutil.copytree(base.folder, tmp_path / "moved")
    moved = localize("base", LLMSpec(path=str(tmp_path / "moved")))
    second = specialist(Runs(tmp_path / "runs", ROOT, tmp_path / "other"), "code", moved, corpus, HOW)
    assert second.folder != first.folder
    assert second.fingerprint == first.fingerprint
    assert done.read_text() == said
    assert capsys.readouterr().out.count(": goes on\n") == 1


def test_llms_are_settings_that_compose(tmp_path: Path) -> None:
    """As target and sources, in place of those that an experiment has."""
    llm = local_llm(tmp_path / "one")
    named = {"a": llm, "b": replace(llm, name="b")}
    cfg = Runs(tmp_path, ROOT).composed(Point.of(["experiment=study"]).plus(as_settings(llm, named)), 3)
    assert (cfg.target.path, cfg.target.recipe) == (str(llm.folder), None)
    assert {name: spec.path for name, spec in cfg.sources.items()} == dict.fromkeys("ab", str(llm.folder))
    assert cfg.seed == 3
