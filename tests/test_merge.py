"""The targets of several runs merged in parameter space, and the line that makes them: what comes out, what is refused.

The line is three runs and a merge, made once and broken once, and mergekit takes a process 5 s to import: 40 s for all.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from commands_for_tests import run_python
from experiments_for_tests import TINY_TRAINING, composed, local_llm
from huggingface_hub import ModelCard
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from knowfuse.commands.command import refusal
from knowfuse.llms import merging
from knowfuse.llms.local import localize
from knowfuse.llms.merging import Merging
from knowfuse.merge import Merged, trained_beside, trained_by
from knowfuse.merge.__main__ import main
from knowfuse.merge.card import merge_card
from knowfuse.merge.pairs import pair_by_pair
from knowfuse.report.compared import markdown
from knowfuse.report.left import left_by
from knowfuse.runs.folder import load_run
from knowfuse.runs.judged import judged
from knowfuse.types import LLMSpec

BFLOAT16 = {"target": {"dtype": "bfloat16"}}
LINE = [*TINY_TRAINING, "experiment=fusechat", "trainer.max_steps=2", "trainer.val_check_interval=2", "samples=0"]


@pytest.fixture(scope="module")
def line(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole of `experiment=fusechat`: two pairs, all sources at once, the merge and the table."""
    folder = tmp_path_factory.mktemp("user") / "line"
    run_python("train.py", *LINE, f"hydra.run.dir={folder}", cache=tiny_cache)
    return folder


@pytest.fixture(scope="module")
def runs(line: Path) -> dict[str, Path]:
    """Two runs that taught the same target, each by another source beside it."""
    return {name: line / "pairs" / name for name in ("mpt", "openllama")}


def test_the_mean_of_two_targets(
    runs: dict[str, Path], tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the best checkpoints, number by number; it cuts as the target, and its card says what was merged and how good it is.

    The same command once more finds it.
    """
    places, folder = list(map(str, runs.values())), tmp_path / "mean"
    settings = [f"runs=[{','.join(places)}]", "method=linear", f"folder={folder}"]
    run_python("-m", "knowfuse.merge", *settings, cache=tiny_cache)
    main(composed("merge", *settings))
    assert "mean is finished: this very command made it before" in " ".join(capsys.readouterr().out.split())
    targets = trained_by(places, "fused")
    assert list(targets) == list(runs)
    one, two = (trained.load().state_dict() for trained in targets.values())
    found = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert found.keys() == one.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, (one[name] + two[name]) / 2, rtol=0, atol=1e-7)
    base = targets["mpt"].base
    assert localize("it", LLMSpec(path=str(folder))).surface().fingerprint == base.surface().fingerprint
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [path for path in folder.iterdir() if path.is_dir()], "what was merged is gone"
    assert [path.name for path in tmp_path.iterdir()] == ["mean"]
    card = ModelCard.load(folder / "README.md")
    assert {"merge", "mergekit"} <= set(card.data.get("tags"))
    table = Merged(targets, Merging("linear")).compared(folder)
    assert table is not None
    assert list(table.rows) == ["target before", "mpt", "openllama", "merged, linear"]
    assert markdown(table) in card.text
    for name, run in runs.items():
        best = json.loads((run / "results.json").read_text())["fits"]["fused"]["best_bits_per_byte"]
        assert re.search(rf"\| {name} \| llama2, {name} \| {best:.4f} \| [\d,]+ \| weight 1.0 \|", card.text)
        assert table.rows[name].bits_per_byte["mean"].value == pytest.approx(
            json.loads((run / "results.json").read_text())["rows"]["target fused"]["mean"], rel=1e-9
        )


def test_in_another_dtype_and_over_other_texts(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs that were measured on other documents do not compare, which is said; their targets merge all the same."""
    shutil.copytree(runs["mpt"], tmp_path / "other")
    paid = (tmp_path / "other" / "documents.csv").read_text().splitlines(keepends=True)
    (tmp_path / "other" / "documents.csv").write_text("".join(paid[:-1]))
    merged = Merged(trained_by([str(tmp_path / "other"), str(runs["openllama"])], "fused"), Merging(), dtype="bfloat16")
    (tmp_path / "new").mkdir()
    assert merged.fill(tmp_path / "new", "new", "python -m knowfuse.merge ...") is None
    assert "not compared: " in capsys.readouterr().out
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "new").dtype == torch.bfloat16
    assert "The runs are over different texts" in (tmp_path / "new" / "README.md").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "runs is not set: give the folders of finished runs, such as runs=[outputs/a/<date_time>,"),
        (["runs={mpt}"], "give a list, runs=["),
        (["runs=[{mpt},{openllama}]", "beside={mpt}"], "give a list, beside=["),
        (["runs=[{mpt},{openllama}]", "beside=[{mpt}]"], "is in runs and in beside: give it once"),
        (["runs=[0,1]", "beside=null"], "'0' is not the folder of a finished run"),
        (["runs=[{mpt}]"], "runs has 1 run: several targets are merged, give at least two runs"),
        (["runs=[{mpt},{mpt}]"], "is given twice: give each run once"),
        (["runs=[{mpt},{new}]"], "is not the folder of a finished run, it has no config.yaml"),
        (["runs=[{mpt},{stopped}]"], "is not the folder of a finished run, it has no results.json: give one of"),
        (["runs=[{mpt},{openllama}]", "fit=clm"], "has no method 'clm': choose one of ['fused']"),
        (
            ["runs=[{mpt},{openllama}]", "method=slerp"],
            "method is 'slerp': choose one of ['linear', 'task_arithmetic',",
        ),
        (["runs=[{mpt},{openllama}]", "dtype=int8"], "dtype is 'int8': choose one of"),
        (
            ["runs=[{mpt},{openllama}]", "folder={mpt}"],
            "is there already, and nothing is overwritten: set folder= to another",
        ),
        (
            ["runs=[{mpt},{another}]"],
            "cannot be merged: they were trained from other LLMs (a small llama and a small llama, of other weights",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused(
    runs: dict[str, Path], tmp_path: Path, settings: list[str], message: str
) -> None:
    """Nothing is left on the disk."""
    copies = ("stopped", "copied", "another")
    places = {**runs, **{name: tmp_path / name for name in ("new", *copies)}}
    for name in copies:
        left_out = shutil.ignore_patterns(*(["fits"] if name == "copied" else []))
        shutil.copytree(runs["openllama"], places[name], ignore=left_out)
    (places["stopped"] / "results.json").unlink()
    OmegaConf.save(
        OmegaConf.merge(OmegaConf.load(runs["mpt"] / "config.yaml"), BFLOAT16), places["another"] / "config.yaml"
    )
    given = [setting.format(**places) for setting in settings]
    before = {path.name for path in runs["mpt"].iterdir()}
    with pytest.raises(ValueError, match=re.escape(message)):
        main(composed("merge", *given))
    assert {path.name for path in runs["mpt"].iterdir()} == before


def test_a_row_of_the_table_is_one_runs(runs: dict[str, Path], tmp_path: Path) -> None:
    """What is beside the targets has names of its own, and so have sources that two runs call alike."""
    targets = trained_by(list(map(str, runs.values())), "fused")
    for name in ("mpt", "openllama"):
        shutil.copytree(runs["openllama"], tmp_path / "other" / name)
    beside = trained_beside(targets, [str(tmp_path / "other" / "mpt")])
    assert list(beside) == ["other/mpt"]
    assert list(Merged(targets, Merging(), beside).rows) == ["mpt", "openllama", "other/mpt"]
    by_clm = {name: replace(trained, method="clm") for name, trained in targets.items()}
    assert list(trained_beside(by_clm, [str(runs["mpt"])])) == ["mpt, fused"]

    settings = OmegaConf.load(runs["openllama"] / "config.yaml")
    settings.sources["mpt"] = settings.sources.pop("openllama")
    OmegaConf.save(settings, tmp_path / "other" / "openllama" / "config.yaml")
    targets = trained_by([str(runs["mpt"]), str(tmp_path / "other" / "openllama")], "fused")
    card = merge_card(targets, Merging(), None, "it", "python -m knowfuse.merge ...")
    assert ["| source mpt |" in card, "| source mpt of openllama |" in card] == [True, True]


def test_targets_of_a_quantised_llm_are_compared_with_its_whole_weights(tmp_path: Path) -> None:
    """Adapters merged into them are whole; packed weights have no cosine with those."""
    base = local_llm(tmp_path / "base")
    packed = localize("base", replace(base.spec, quantization="4bit"))
    merging.require_mergeable({"one": base, "two": base}, packed)


def test_without_mergekit_the_line_that_installs_it_is_told(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"merging needs mergekit, .*: pip install -e '\.\[merge\]'"):
        main(composed("merge", f"runs=[{','.join(map(str, runs.values()))}]", f"folder={tmp_path / 'new'}"))


def test_the_line_compares_pairs_with_direct_fusion(line: Path, runs: dict[str, Path]) -> None:
    """Each LLM as its own run has it; the merged one is what `knowfuse.merge` makes of the same runs."""
    table = json.loads((line / "comparison.json").read_text())
    names = ["target before", "pairwise, mpt", "pairwise, openllama", "direct fusion", "plain CLM", "merged, sce"]
    assert (list(table["rows"]), table["baseline"]) == (names, "direct fusion")
    results = json.loads((line / "results.json").read_text())
    for place, method, name in (
        ("direct", "fused", names[3]),
        ("direct", "clm", names[4]),
        ("pairs/mpt", "fused", names[1]),
    ):
        own = json.loads((line / place / "results.json").read_text())["rows"][f"target {method}"]
        assert results["rows"][name] == pytest.approx(own, rel=1e-9)
    merged = Merged(trained_by([str(run) for run in runs.values()], "fused"), Merging())
    again = merged.compared(line / "merged")
    assert again is not None
    assert again.rows["merged, sce"].bits_per_byte["mean"].value == results["rows"]["merged, sce"]["mean"]
    assert results["validation"] == merged.validation(line / "merged")
    assert "| pairwise, mpt | llama2, mpt |" in (line / "merged" / "README.md").read_text()


def test_each_run_of_the_line_can_be_made_by_itself(line: Path) -> None:
    """By the command that its folder keeps; plain CLM, the same for all, is trained once."""
    for place, compares in (("pairs/mpt", False), ("pairs/openllama", False), ("direct", True)):
        overrides = [str(o) for o in OmegaConf.load(line / place / ".hydra" / "overrides.yaml")]
        cfg = OmegaConf.to_container(composed("train", *overrides), resolve=True)
        saved = OmegaConf.to_container(OmegaConf.load(line / place / "config.yaml"))
        assert isinstance(cfg, dict)
        assert isinstance(saved, dict)
        assert {**saved, "ckpt_path": "auto", "cache": cfg["cache"]} == cfg
        assert saved["compare_with_clm"] is compares


@pytest.mark.long
def test_a_line_that_was_killed_goes_on_to_the_same_end(line: Path, tiny_cache: Path) -> None:
    """In its second pair, with half a merge of before beside it: what is finished is found, what is not is made."""
    ends = ("merged/model.safetensors", "merged/README.md", "comparison.json", "comparison.png", "results.json")
    before = {name: (line / name).read_bytes() for name in ends}
    untouched = {path: path.stat().st_mtime_ns for path in (line / "pairs" / "mpt").rglob("*") if path.is_file()}
    for left in [*line.glob("comparison.*"), line / "results.json", *(line / "pairs" / "openllama").glob("results.*")]:
        left.unlink()
    for fit in (line / "pairs" / "openllama" / "fits").glob("*/fit.json"):
        fit.unlink()
    for folder in ("merged", "direct"):
        shutil.rmtree(line / folder)
    (line / "merged.1.part").mkdir()
    said = run_python("train.py", *LINE, f"hydra.run.dir={line}", cache=tiny_cache)
    assert f"run {line / 'pairs' / 'mpt'}: finished before" in " ".join(said.split())
    assert {name: (line / name).read_bytes() for name in ends} == before
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    assert not (line / "merged.1.part").exists()


@pytest.mark.long
def test_two_processes_make_one_line(tiny_cache: Path, tmp_path: Path) -> None:
    """`trainer=fsdp` on the CPU: runs that are kept in shards, which one of the two merges, says and writes; it is found again."""
    folder = tmp_path / "line"
    sharded = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "batch_blocks=1"]
    command = ["train.py", *LINE, *sharded, f"hydra.run.dir={folder}"]
    said = run_python(*command, cache=tiny_cache)
    assert (said.count("2 targets merged by sce"), said.count("Results: test")) == (1, 3)
    pairs = [str(folder / "pairs" / name) for name in ("mpt", "openllama")]
    assert all((Path(run) / "fits" / "fused-lr0.002" / "best.ckpt").is_dir() for run in pairs)
    (tmp_path / "again").mkdir()
    Merged(trained_by(pairs, "fused"), Merging()).make(tmp_path / "again")
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (folder / "merged" / weights).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (folder / "merged").iterdir()}
    assert "finished before" in run_python(*command, cache=tiny_cache)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_folder_of_a_line_is_no_run(line: Path) -> None:
    """Whoever wants one is told which there are."""
    askers: list[Callable[[], object]] = [lambda: load_run(line), lambda: judged(str(line)), lambda: left_by(line)]
    for asked in askers:
        with pytest.raises(
            ValueError, match=r"holds several runs, .*: give one of .*pairs/mpt, .*direct, or as an LLM"
        ):
            asked()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["~sources.mpt"], "pairwise merges the targets of several pairs, and beside the target there is 1 source"),
        (
            ["target=llama2_7b"],
            "none of the sources ['llama2', 'mpt', 'openllama'] is the target",
        ),
        (
            ["ckpt_path=a/last.ckpt"],
            "ckpt_path is 'a/last.ckpt', a checkpoint of one fit, and pairwise has several runs",
        ),
        (
            ["pairwise.shared={select_topk: most}", "pairwise.method=ties"],
            "there is no setting shared.select_topk: shared has normalize",
        ),
        (["fusion=static", "fusion.weights={llama2: 0.2, mpt: 0.3, openllama: 0.5}"], "fusion.weights"),
    ],
)
def test_a_line_that_cannot_be_is_refused_before_anything_trains(
    settings: list[str], message: str, tmp_path: Path
) -> None:
    def train(*_: Any) -> float:
        raise AssertionError("nothing is to be trained")

    cfg = composed("train", "experiment=fusechat", "ckpt_path=null", *settings)
    try:
        experiment = hydra.utils.instantiate(cfg, _convert_="all")
        said = str(pair_by_pair(experiment, cfg, tmp_path / "line", settings, train))
    except (InstantiationException, ValueError) as error:
        said = refusal(error) or repr(error)
    assert message in said
    assert not list(tmp_path.iterdir())
