"""The main job, end to end, through the commands that a user types: prepare, train, stop, go on, evaluate."""

import csv
import json
import re
import shlex
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from commands_for_tests import FORKED_AND_STARTED, ROOT, SECRET, Run, ended, run_python, start_python
from experiments_for_tests import SOURCES, TINY, TINY_TRAINING, composed
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from pages_for_tests import page_of
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel

from knowfuse.evaluation import read_by_document, read_samples
from knowfuse.report import __main__ as command
from knowfuse.runs.folder import checkpoints_to_resume, open_run, saved_settings
from knowfuse.runs.headroom import headroom
from knowfuse.runs.judged import read_evaluated
from knowfuse.training.curves import read_curves

sys.path.insert(0, str(ROOT))
import evaluate
import train

TRAIN, EVALUATE = str(ROOT / "train.py"), str(ROOT / "evaluate.py")
NAMES = [*SOURCES, "target before", "target clm", "target fused"]
# Runs train.py and kills the process, without a word, at an optimizer step of the second fit.
KILLED = """
import os, runpy, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
left = [int(sys.argv[1])]
def step(*_):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
register_optimizer_step_post_hook(step)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user stands; runs are in `outputs/` below it."""
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def run(tiny_cache: Path, folder: Path) -> Path:
    """The folder of a run of `python train.py` that nobody disturbed."""
    printed = run_python(TRAIN, *TINY_TRAINING, "name=whole", cache=tiny_cache, cwd=folder)
    assert "Results: test" in printed
    assert "made before" in printed, "the recipes of the prepared cache are found again"
    stages = "preparing|headroom|training clm|training fused|testing|samples and page"
    assert re.search(rf"time: ((?:{stages}) \d:\d\d:\d\d[,;] ){{6}}\d:\d\d:\d\d in all\n", printed)
    assert f"settings: {shlex.join([*TINY_TRAINING, 'name=whole'])}, and the defaults\n" in printed
    (run,) = (folder / "outputs" / "whole").iterdir()
    return run


@contextmanager
def settings_of(tiny_cache: Path, run: Path, *overrides: str) -> Iterator[Any]:
    """The composed configuration as `train.main` gets it, with Hydra's own part where it looks for it."""
    mine = [*TINY_TRAINING, f"cache={tiny_cache}", f"hydra.runtime.output_dir={run}", *overrides]
    cfg = composed("train", *mine, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    yield cfg
    HydraConfig.instance().cfg = None


@contextmanager
def forward_passes() -> Iterator[Counter[int]]:
    """Counts the forward passes of LLMs in this process, by the size of their vocabulary."""
    counts: Counter[int] = Counter()

    def count(module: torch.nn.Module, _: Any) -> None:
        if isinstance(module, PreTrainedModel) and module.get_output_embeddings() is not None:
            counts[module.config.vocab_size] += 1

    handle = register_module_forward_pre_hook(count)
    yield counts
    handle.remove()


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def test_a_run_leaves_its_results_pictures_and_checkpoints(run: Path) -> None:
    got = results(run)
    assert list(got["rows"]) == NAMES
    assert got["unit"] == "bits per byte on the test split"
    for bits in got["rows"].values():
        assert list(bits) == ["code", "docs", "prose", "mean"]
        assert bits["mean"] == pytest.approx((bits["code"] + bits["docs"] + bits["prose"]) / 3)
        assert 0.5 < bits["mean"] < 12, "of an LLM that knows next to nothing, but more than nothing"
    assert got["rows"]["target before"] == got["rows"]["llama2"], "the target is a copy of that source"
    assert got["rows"]["target clm"]["mean"] < got["rows"]["target before"]["mean"]
    assert got["rows"]["target fused"]["mean"] < got["rows"]["target before"]["mean"]
    with (run / "results.csv").open() as file:
        table = {row["model"]: row for row in csv.DictReader(file)}
    assert list(table) == NAMES
    assert all(float(table[n][d]) == bits for n in NAMES for d, bits in got["rows"][n].items())
    for picture in ("losses.png", "results.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    for fit in got["fits"].values():
        assert [tokens for tokens, _ in fit["history"]] == sorted({tokens for tokens, _ in fit["history"]})
        assert len(fit["history"]) == 4
        assert {"best.ckpt", "last.ckpt", "fit.json"} <= {p.name for p in (run / "fits" / fit["name"]).iterdir()}
    assert not list(run.rglob("*.part"))
    assert not list(run.glob("*.log")), "what is said is on the screen"


def test_both_methods_saw_the_same_text(run: Path) -> None:
    clm, fused = (results(run)["fits"][method]["history"] for method in ("clm", "fused"))
    assert [tokens for tokens, _ in clm] == [tokens for tokens, _ in fused]
    assert clm != fused


@pytest.mark.long
def test_a_python_that_is_started_prepares_the_same(tiny_cache: Path, tmp_path: Path) -> None:
    """The LLMs and what they said, byte by byte, as the forked command made them."""
    start_python("-m", "knowfuse.prepare", *TINY, cache=tmp_path)
    made = list(tmp_path.rglob("*.safetensors"))
    assert len(made) >= 2 * len(SOURCES)
    for path in made:
        assert path.read_bytes() == (tiny_cache / path.relative_to(tmp_path)).read_bytes(), path


@FORKED_AND_STARTED
def test_evaluate_finds_the_same_numbers(by: Run, run: Path, tiny_cache: Path, folder: Path) -> None:
    """From the run's own saved configuration: equal to the last bit; the run itself is left alone."""
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    by(EVALUATE, f"run={run}", cache=tiny_cache / "not this one", cwd=folder).well()
    again = max((folder / "outputs" / "evaluate").iterdir())
    assert results(again) == results(run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.long
def test_a_killed_run_ends_bit_identical(run: Path, tiny_cache: Path, folder: Path) -> None:
    """SIGKILL three steps before the end of the fused fit, one step after a checkpoint; then `ckpt_path=last`."""
    arguments = [TRAIN, *TINY_TRAINING, "name=killed"]
    killed = ended("-c", KILLED, "13", *arguments, cache=tiny_cache, cwd=folder)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (stopped,) = (folder / "outputs" / "killed").iterdir()
    clm, fused = (stopped / "fits" / fit["name"] for fit in results(run)["fits"].values())
    assert (clm / "fit.json").exists()
    assert not (fused / "fit.json").exists()
    assert torch.load(fused / "last.ckpt", weights_only=True)["global_step"] == 4
    before = (clm / "last.ckpt").stat().st_mtime_ns

    printed = start_python(*arguments, "ckpt_path=last", cache=tiny_cache, cwd=folder)
    assert "goes on" in printed
    assert f"{clm.name}: finished before" in printed
    assert list((folder / "outputs" / "killed").iterdir()) == [stopped], "it went on in its own folder"
    assert (clm / "last.ckpt").stat().st_mtime_ns == before
    assert results(stopped) == results(run)
    for fit in (clm, fused):
        for file in ("last.ckpt", "best.ckpt"):
            mine, its = (
                torch.load(folder / "fits" / fit.name / file, weights_only=True)["state_dict"]
                for folder in (run, stopped)
            )
            assert mine.keys() == its.keys()
            assert all(torch.equal(mine[key], its[key]) for key in mine)


def test_another_alignment_and_fusion_run_no_source(run: Path, tiny_cache: Path, tmp_path: Path) -> None:
    """`fusion=avg_ce alignment=min_edit_distance` on the same cache: no LLM at all runs before training, then only
    the target does (each source has a vocabulary of its own size); the traces on disk are not touched."""
    before = {path: path.stat().st_mtime_ns for path in (tiny_cache / "traces").rglob("*.safetensors")}
    assert len(before) >= 3  # other tests read other sources into the same cache
    changed = ["fusion=avg_ce", "alignment=min_edit_distance", "compare_with_clm=false"]
    with settings_of(tiny_cache, tmp_path, *changed) as cfg, open_run(tmp_path, cfg), forward_passes() as passes:
        experiment = hydra.utils.instantiate(cfg, _convert_="all")
        prepared = experiment.prepare()
        headroom(prepared)
        assert not passes
        fused = experiment.train(prepared, "fused", tmp_path, {})
        experiment.score(prepared, {"fused": fused}, tmp_path, prepared.corpus.split("test"))
    assert set(passes) == {400}
    assert passes[400] > 8, "the hook counts"
    assert fused.history != [tuple(point) for point in results(run)["fits"]["fused"]["history"]]
    after = {path: path.stat().st_mtime_ns for path in (tiny_cache / "traces").rglob("*.safetensors")}
    assert before.items() <= after.items()


def test_train_returns_what_a_sweeper_minimises(run: Path, tiny_cache: Path, tmp_path: Path) -> None:
    """The best validation of the fused fit; the same settings as the run, in this process, give the same."""
    with settings_of(tiny_cache, tmp_path, "name=whole", "compare_with_clm=false") as cfg:
        returned = train.main(cfg)
    assert returned == results(run)["fits"]["fused"]["best_bits_per_byte"]
    assert results(tmp_path)["tokens_to_clm_final"] is None
    assert list(results(tmp_path)["rows"]) == [n for n in NAMES if n != "target clm"]
    (metrics,) = (tmp_path / "fits").rglob("metrics.csv")
    with metrics.open() as file:
        assert [row["best/val_bits_per_byte"] for row in csv.DictReader(file)][-1] == str(returned)


def test_a_checkpoint_of_another_run_by_its_path(run: Path, tiny_cache: Path, tmp_path: Path) -> None:
    """A new run folder, from the last checkpoint of the fused fit: nothing is left to train, and the result is its."""
    name = results(run)["fits"]["fused"]["name"]
    path = run / "fits" / name / "last.ckpt"
    with (
        settings_of(tiny_cache, tmp_path, f"ckpt_path={path}", "compare_with_clm=false") as cfg,
        open_run(tmp_path, cfg),
    ):
        experiment = hydra.utils.instantiate(cfg, _convert_="all")
        resume = checkpoints_to_resume(tmp_path, experiment.ckpt_path, experiment.fit_names)
        fused = experiment.train(experiment.prepare(), "fused", tmp_path, resume)
    assert fused.history == [tuple(point) for point in results(run)["fits"]["fused"]["history"]]
    assert (tmp_path / "fits" / name / "best.ckpt").exists()
    assert read_curves(tmp_path / "fits" / name) == read_curves(path.parent), "and the way there"
    with (
        settings_of(tiny_cache, tmp_path / "new", f"ckpt_path={path}", "learning_rates=[1e-3]") as cfg,
        pytest.raises(ValueError, match=rf"saved by a fit named '{name}', this run has \['clm-lr0\.001', 'fused-lr0"),
    ):
        train.main(cfg)


def test_a_finished_run_is_not_trained_again(run: Path, tiny_cache: Path) -> None:
    with (
        settings_of(tiny_cache, run, "name=whole", "ckpt_path=last") as cfg,
        pytest.raises(ValueError, match=r"is finished: start a new one, or score it with python evaluate\.py run="),
    ):
        train.main(cfg)


def test_a_requeued_job_that_is_done_ends_well(run: Path, tiny_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`ckpt_path=auto` in its folder: the figure it had, and nothing is written."""
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with settings_of(tiny_cache, run, "name=whole", "ckpt_path=auto") as cfg:
        assert train.main(cfg) == results(run)["fits"]["fused"]["best_bits_per_byte"]
    assert "finished before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_run_goes_on_with_its_own_settings(run: Path, tiny_cache: Path) -> None:
    with (
        settings_of(tiny_cache, run, "name=whole", "ckpt_path=last", "lm_weight=0.77") as cfg,
        pytest.raises(ValueError, match=r"was started with lm_weight=0\.3, now it is 0\.77: a run goes on with the"),
    ):
        train.main(cfg)


@pytest.mark.long
def test_two_processes_share_one_run(tiny_cache: Path, folder: Path) -> None:
    """`trainer=fsdp` on the CPU, both fits: one of the two processes speaks, scores and writes."""
    sharded = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2"]
    short = ["trainer.max_steps=2", "trainer.val_check_interval=2", "batch_blocks=1"]
    printed = run_python(TRAIN, *TINY_TRAINING, *short, *sharded, "name=two", cache=tiny_cache, cwd=folder)
    assert printed.count("Results: test") == 1
    (run,) = (folder / "outputs" / "two").iterdir()
    assert list(results(run)["rows"]) == NAMES
    assert all((run / "fits" / fit["name"] / "best.ckpt").is_dir() for fit in results(run)["fits"].values())


@pytest.mark.long
def test_a_run_in_shards_is_scored_again(tiny_cache: Path, folder: Path, tmp_path: Path) -> None:
    """On two processes as it trained, to the last bit; on one in float32 the same but for what bfloat16 drops, some 1e-3."""
    (run,) = (folder / "outputs" / "two").iterdir()
    printed = run_python(EVALUATE, f"run={run}", f"hydra.run.dir={tmp_path / 'again'}", cache=tiny_cache, cwd=folder)
    assert printed.count("target fused") == 1
    assert results(tmp_path / "again") == results(run)
    cfg = composed(
        "evaluate", f"run={run}", "trainer=cpu", f"hydra.runtime.output_dir={tmp_path}", return_hydra_config=True
    )
    HydraConfig.instance().set_config(cfg)
    evaluate.main(cfg)
    HydraConfig.instance().cfg = None
    mine, its = (results(path)["rows"]["target fused"] for path in (tmp_path, run))
    assert mine != its
    assert mine == pytest.approx(its, rel=5e-3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lm_wieght=0.5", "Could not override 'lm_wieght'"),
        ("fusion.granularty=token", "Could not override 'fusion.granularty'"),
        ("fusion=maximum", r"(?s)Could not find 'fusion/maximum'.*Available options in 'fusion':.*avg_ce.*min_ce"),
        ("alignment=exact", r"(?s)Available options in 'alignment':.*byte_exact.*exact_match.*min_edit_distance"),
    ],
)
def test_an_unknown_key_or_group_is_hydras_error(override: str, message: str) -> None:
    with pytest.raises(hydra.errors.HydraException, match=message):
        composed("train", override)


def test_a_run_is_evaluated_on_other_text_and_compared(run: Path, folder: Path, tiny_cache: Path) -> None:
    """What it must not forget, beside its own text; a hub folder reads the same; text that was trained on is refused.

    On whatever devices: it stays an evaluation of a run that was trained as it was.
    """
    (folder / "other.txt").write_text("Some other text, of no domain.\n\nAnd another one, which is longer than that.\n")
    other = "corpus.files={forgetting: [other.txt]}"
    asked = [f"run={run}", other, "trainer=cpu", "hydra.run.dir=elsewhere"]
    assert "forgetting" in run_python(EVALUATE, *asked, cache=tiny_cache, cwd=folder)
    assert read_evaluated(folder / "elsewhere")[0] == saved_settings(run)
    got = results(folder / "elsewhere")
    assert got["unit"] == "bits per byte on forgetting"
    assert list(got["rows"]) == NAMES
    printed = run_python(EVALUATE, f"compare=[{run}]", "hydra.run.dir=compared", cache=tiny_cache, cwd=folder)
    assert "more than target clm" in " ".join(printed.split())
    compared = json.loads((folder / "compared" / "comparison.json").read_text())
    for name, row in compared["rows"].items():
        assert row["bits_per_byte"]["mean"]["value"] == pytest.approx(results(run)["rows"][name]["mean"])
    llm = next((tiny_cache / "recipes").glob("*/config.json")).parent
    asked = [f"compare=[elsewhere,{llm}]", "baseline=target before", "hydra.run.dir=both"]
    run_python(EVALUATE, *asked, cache=tiny_cache, cwd=folder)
    both = json.loads((folder / "both" / "comparison.json").read_text())
    assert list(both["rows"]) == [*NAMES, str(llm)]
    assert not [*llm.parent.glob("*.json")], "its scores are in the cache, not beside it"
    assert both["baseline"] == "target before"
    with (run / "documents.csv").open() as file:
        assert {row["domain"] for row in csv.DictReader(file)} == {"code", "docs", "prose"}
    corpus = hydra.utils.instantiate(composed("train", *TINY_TRAINING).corpus)(cache=str(tiny_cache))
    learnt = next(
        d.text for d in corpus.split("fusion") if d.is_complete and d.text == d.text.strip() and "\n\n" not in d.text
    )
    (folder / "other.txt").write_text(learnt)
    failed = ended(EVALUATE, f"run={run}", other, cache=tiny_cache, cwd=folder)
    assert "documents that the run was trained on, so nothing is held out" in failed.stderr


def test_the_llms_of_a_run_answer_a_task_of_the_users_own(run: Path, folder: Path, tiny_cache: Path) -> None:
    """Every row of the results; the target before is a copy of a source, and answers as it does."""
    lines = [json.dumps({"query": "Two and two are", "choices": ["four", "a fish"], "gold": 0})] * 2
    (folder / "questions.jsonl").write_text("\n".join(lines))
    settings = ["task: mine", "dataset_path: json", "dataset_kwargs: {data_files: {test: questions.jsonl}}"]
    settings += [
        "test_split: test",
        "output_type: multiple_choice",
        'doc_to_text: "{{query}}"',
        "doc_to_choice: choices",
    ]
    settings += ["doc_to_target: gold", "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]"]
    (folder / "mine.yaml").write_text("\n".join(settings))
    asked = [f"run={run}", "tasks=[mine.yaml]", "limit=1", "hydra.run.dir=answers"]
    run_python(EVALUATE, *asked, cache=tiny_cache, cwd=folder)
    answers = json.loads((folder / "answers" / "answers.json").read_text())
    assert list(answers) == NAMES
    assert answers["target before"] == answers["llama2"] != answers["target fused"]
    assert all(tasks["mine"]["questions"] == 1 for tasks in answers.values())


SECTIONS = [
    "results",
    "headroom",
    "training",
    "sources",
    "mass",
    "disagreement",
    "documents",
    "continuations",
    "settings",
]


def test_a_run_has_its_page(run: Path) -> None:
    """Whole in itself, nothing left out; what its tokens cost sums up to what the results say of the document."""
    page = page_of((run / "report.html").read_text())
    assert page.sections == SECTIONS
    assert "leave something out" not in page.text
    assert "hydra.run.dir" not in page.text
    assert all(f"{bits['mean']:.3f}" in page.text for bits in results(run)["rows"].values())
    assert (run / "report.md").read_text().startswith("| bits per byte on the test split |")
    scores, kept = read_by_document(run / "documents.csv"), read_samples(run)
    shown = [*kept.gained, *kept.lost]
    assert shown
    assert kept.baseline == "target clm"
    for costs in shown:
        row = scores.ids.index(costs.id)
        assert (costs.domain, sum(costs.num_bytes)) == (scores.domains[row], scores.num_bytes[row])
        for llm, nats in costs.nats.items():
            assert sum(nats) == pytest.approx(scores.nats[llm][row], abs=1e-4 * len(nats))
    assert {one.domain for one in kept.continuations} == {"code", "docs", "prose"}
    assert all(set(one.went_on) == {"target before", "target clm", "target fused"} for one in kept.continuations)
    assert json.loads((run / "headroom.json").read_text())["rows"].keys() == {*NAMES[:4], "oracle over the sources"}


def test_the_page_of_a_run_that_was_copied(
    run: Path, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its caches it has all that was kept; its checkpoints, asked again, say the same; unfinished, it says so."""
    copy = tmp_path / run.parent.name / run.name
    shutil.copytree(run, copy)
    monkeypatch.setattr(sys, "argv", ["report", str(copy)])
    command.main()
    same = (copy / "report.html").read_text().replace(str(copy), "RUN") == (run / "report.html").read_text().replace(
        str(run), "RUN"
    )
    assert same
    kept = read_samples(run)
    (copy / "samples.json").unlink()
    monkeypatch.setattr(sys, "argv", ["report", f"run={copy}", "--samples", "4"])
    command.main()
    assert read_samples(copy) == kept
    for name in ("results.json", "documents.csv", "samples.json"):
        (copy / name).unlink()
    monkeypatch.setattr(sys, "argv", ["report", str(copy)])
    command.main()
    page = page_of((copy / "report.html").read_text())
    assert page.sections == SECTIONS
    assert "This run is not finished" in page.text
    assert "3 of 9 sections leave something out" in page.text
    assert "ckpt_path=last" in page.text


def test_nothing_secret_is_kept_and_nothing_pickled(run: Path, tiny_cache: Path) -> None:
    """Configurations, logs, checkpoints, the report, traces, corpora and LLMs: none holds a key of the environment, and none what
    would run where it is read; checkpoints are read as weights alone.
    """
    files = [path for folder in (run, tiny_cache) for path in folder.rglob("*") if path.is_file()]
    assert {"config.yaml", "results.json", "report.html", "last.ckpt", "model.safetensors"} <= {
        path.name for path in files
    }
    for path in files:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert not (re.match(rb"\x80[\x02-\x05]", content) and content.endswith(b".")), f"{path} is a pickle"
        if content[:2] == b"PK":
            assert path.suffix in (".ckpt", ".npz"), path
        if path.suffix == ".ckpt":
            torch.load(path, weights_only=True)


def test_an_evaluation_overwrites_no_run(run: Path, folder: Path, tiny_cache: Path) -> None:
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    failed = ended(EVALUATE, f"compare=[{run}]", f"hydra.run.dir={run}", cache=tiny_cache, cwd=folder)
    assert "holds config.yaml of a run, an evaluation or a probe, and nothing is overwritten" in failed.stderr
    assert {path: path.read_bytes() for path in before} == before
