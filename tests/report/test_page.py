"""The page of what a run left, with what it did not leave named: older runs, runs of one method, other text."""

import csv
import json
import math
import re
import shlex
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import OmegaConf
from pages_for_tests import Page, page_of
from test_results import CLM, TABLE, fit

from knowfuse.evaluation import Continuation, Samples, TokenCosts, by_document, write_by_document
from knowfuse.report import tokens_to_clm_final, write_headroom, write_page, write_results, write_run
from knowfuse.report.left import left_by
from knowfuse.report.page import SECTIONS
from knowfuse.runs.judged import save_evaluated
from knowfuse.text.document import Document
from knowfuse.training.finished import Fit

FUSED = fit("fused-lr0.01", (100, 2.0), (200, 1.0))
SETTINGS = {"name": "it's", "sources": {"llama2": {}, "mpt": {}}, "trainer": {"max_steps": 8}}
SAID: dict[str, Any] = {
    "share": {"llama2": {"code": 0.75, "docs": 0.0}, "mpt": {"code": 0.25, "docs": 1.0}},
    "coverage": {"llama2": {"code": 1.0, "docs": 0.5}, "mpt": {"code": 1.0, "docs": 1.0}},
    "labelled": {"code": 300, "docs": 100},
    "mass": None,
    "rows": None,
    "over_training": [
        {"tokens": 100, "share": {"llama2": {"code": 0.75}, "mpt": {"code": 0.25}}, "labelled": {"code": 300}}
    ],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As an older `train.py` left it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / ".hydra").mkdir()
    write_results(folder, TABLE, {"clm": CLM, "fused": FUSED}, "the test split")
    OmegaConf.save(OmegaConf.create(SETTINGS), folder / "config.yaml")
    overrides = OmegaConf.create(["name=it's", "corpus.files={mine: [a b.txt]}"])
    OmegaConf.save(overrides, folder / ".hydra" / "overrides.yaml")
    return folder


def copy_of(finished: Path, folder: Path, fused: Fit = FUSED, **fits: Fit) -> Path:
    """The run, with these fits where some are given."""
    shutil.copytree(finished, folder)
    results = json.loads((folder / "results.json").read_text())
    results["fits"] = {name: vars(fit) for name, fit in ({**fits, "fused": fused}).items()}
    results["tokens_to_clm_final"] = tokens_to_clm_final({**fits, "fused": fused})
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def page(folder: Path, samples: Samples | None = None) -> Page:
    write_page(folder, samples)
    return page_of((folder / "report.html").read_text())


def test_a_run_is_finished_once_its_page_is_there(finished: Path, tmp_path: Path) -> None:
    """What ends it before its page is written leaves a run that goes on, not a finished one without a page."""
    shutil.copy(finished / "config.yaml", tmp_path)
    (tmp_path / "headroom.json").write_text("{")
    with pytest.raises(ValueError, match=r"headroom\.json"):
        write_run(tmp_path, TABLE, {"clm": CLM, "fused": FUSED}, None)
    assert not (tmp_path / "results.json").exists()
    (tmp_path / "headroom.json").unlink()
    write_run(tmp_path, TABLE, {"clm": CLM, "fused": FUSED}, None)
    assert (tmp_path / "results.json").read_text() == (finished / "results.json").read_text()
    assert "target fused" in (tmp_path / "report.md").read_text()
    written = (tmp_path / "report.html").read_text()
    write_page(tmp_path)
    assert (tmp_path / "report.html").read_text() == written, "the results are those that are in the file"


def test_the_commands_of_a_run_paste_back_whatever_it_is_called(finished: Path, tmp_path: Path) -> None:
    """As the shell and then Hydra read them: its folder, of a finished run and of one that goes on."""
    for is_finished in (True, False):
        folder = copy_of(finished, tmp_path / f"a=1, [\u00e9] (b) {is_finished}")
        if not is_finished:
            (folder / "results.json").unlink()
        write_page(folder)
        (block,) = re.findall(r"Goes on with:</p>\s*<pre>(.*?)</pre>", (folder / "report.html").read_text(), re.DOTALL)
        given = [word for line in unescape(block).splitlines() for word in shlex.split(line) if str(folder) in word]
        assert given
        for word in given:
            if "=" in word.removeprefix(str(folder)) and not word.startswith("/"):
                value: Any = OverridesParser.create().parse_override(word).value()
                (place,) = value if isinstance(value, list) else [value]
                assert str(place.text if isinstance(place, QuotedString) else place) == str(folder)
            else:
                assert word == str(folder)


def test_an_older_run_has_its_page_and_what_is_missing_is_named(finished: Path, tmp_path: Path) -> None:
    """Its curves are those of the CSV logger, every step once though it was stopped in between."""
    folder = copy_of(finished, tmp_path / "old", clm=CLM)
    for version, steps in enumerate([(0, 1, 2), (2, 3)]):
        place = folder / "fits" / "fused-lr0.01" / "csv" / f"version_{version}" / "metrics.csv"
        place.parent.mkdir(parents=True)
        with place.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "train/loss_nats", "train/disagreement_nats", "val/bits_per_byte"])
            writer.writerows([[step, version + 0.5, 0.25, ""] for step in steps] + [[steps[-1], "", "", 1.0]])
    rows = left_by(folder).curves["fused-lr0.01"]
    assert [row["train/loss_nats"] for row in rows.values()] == [0.5, 0.5, 1.5, 1.5]
    shown = page(folder)
    assert len(shown.sections) == len(SECTIONS)
    assert "5 of 9 sections leave something out" in shown.text
    assert shown.text.count("older versions did not write it") >= 3
    assert "--samples 4 asks the checkpoints for them" in shown.text
    assert "-1.000" in shown.text, "against the target before"
    assert "python train.py 'name=it'\"'\"'s' 'corpus.files={mine: [a b.txt]}'" in shown.text
    assert "1.5 times" in shown.text


def test_a_run_of_one_method_is_against_the_target_before(finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "one")
    shown = page(folder)
    assert "against target before" in shown.text
    assert "plain CLM's best" not in shown.text


def test_figures_without_documents_have_no_intervals_and_say_so(finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "run", clm=CLM)
    (folder / "documents.csv").unlink()
    shown = page(folder)
    assert "intervals (documents.csv: older versions did not write it)" in shown.text
    assert "95 %" not in shown.text


def test_one_document_a_domain_is_no_certainty(finished: Path, tmp_path: Path) -> None:
    """Drawn anew it is the same document: an interval of no width is not one, nor is that of a mean with one in it."""
    folder = copy_of(finished, tmp_path / "run")
    told = "with a domain of one document, which tells nothing of others"
    assert told in page(folder).text
    few = [Document("alone", "code", "test"), *(Document(f"text {n}", "docs", "test") for n in range(6))]
    nats = {name: {d.id: 10.0 * pays for d in few} for name, pays in (("target clm", 2), ("target fused", 1))}
    scores = by_document(nats | {"target before": nats["target clm"]}, few)
    write_by_document(folder / "documents.csv", scores)
    results = json.loads((folder / "results.json").read_text())
    results["rows"] = {name: {**scores.bits_per_byte(name), "mean": 1.0} for name in scores.nats}
    (folder / "results.json").write_text(json.dumps(results))
    shown = page(folder).text
    assert told in shown
    assert "One document is all there is of code: of others like it the intervals say nothing." in " ".join(
        shown.split()
    )


def test_names_are_told_apart_and_shown_as_they_are(finished: Path, tmp_path: Path) -> None:
    """A source may be called like a row of ours begins, and a domain has its capitals."""
    folder = copy_of(finished, tmp_path / "run")
    OmegaConf.save(OmegaConf.create({**SETTINGS, "sources": {"oracle-sql": {}, "b": {}}}), folder / "config.yaml")
    paid = {"oracle-sql": 1.2, "b": 1.5, "target before": 2.0, "oracle over the sources": 1.1}
    rows = {name: {"MMLU": bits, "mean": bits} for name, bits in paid.items()}
    (folder / "headroom.json").write_text(json.dumps({"unit": "bits per byte on MMLU", "rows": rows}))
    shown = " ".join(page(folder).text.split())
    assert "would pay 1.100, which is 0.100 less than oracle-sql, the best source on the mean" in shown
    assert "Bits per byte on MMLU, before anyone trains." in shown


def test_a_document_that_is_shown_in_part_is_headed_by_all_of_it(finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "run", clm=CLM)
    scores = left_by(folder).documents
    assert scores is not None
    nats = {name: [0.5, 9.0] for name in ("target before", "target fused")}
    costs = TokenCosts(scores.ids[0], scores.domains[0], ["a", "b"], [3, 1], nats, 700)
    bits = {name: float(paid[0]) / math.log(2) / int(scores.num_bytes[0]) for name, paid in scores.nats.items()}
    more = bits["target fused"] - bits["target before"]
    shown = " ".join(page(folder, Samples("target before", [costs], [], [])).text.split())
    assert f"{scores.domains[0]}, {more:+.3f} bits per byte" in shown
    assert "below, the first 2 of 700 tokens" in shown


def test_an_evaluation_has_a_page_of_its_own(finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "evaluated", clm=CLM)
    (folder / "config.yaml").unlink()
    save_evaluated(folder, SETTINGS, {"split": "test", "corpus": {"files": {"mine": ["a.txt"]}}})
    results = json.loads((folder / "results.json").read_text())
    results["completions"] = {name: {"prompts": 16, "accepted": 4} for name in results["rows"]}
    results["by_class_of_bytes"] = {name: {"indentation": 0.4567} for name in results["rows"]}
    (folder / "results.json").write_text(json.dumps(results))
    shown = page(folder)
    for said in ("completions that are Python, of 16", "indentation, bits per byte"):
        assert said in shown.text
    assert "0.25 ± 0.11" in shown.text
    assert "0.457" in shown.text
    assert "What it was measured on: split: test" in " ".join(shown.text.split())
    assert "the page of its run has them" in shown.text
    assert "python evaluate.py 'name=" in shown.text


def test_texts_and_names_stay_text(finished: Path, tmp_path: Path) -> None:
    """Whatever markup they hold; shares, areas and tokens are drawn."""
    folder = copy_of(finished, tmp_path / "<i>run<", Fit(**{**vars(FUSED), "sources": SAID}), clm=CLM)
    write_headroom(folder, TABLE)
    nats = {name: [0.5, 9.0] for name in ("target before", "target clm", "target fused")}
    costs = TokenCosts("d", "code", ["<b>", "⏎"], [3, 1], nats, 700)
    samples = Samples("target clm", [costs], [], [Continuation("d", "docs", "</span>", "<p>", {"target fused": "&"})])
    shown = page(folder, samples)
    written = (folder / "report.html").read_text()
    assert {"<b>", "</span>", "<p>", "&"} <= set(shown.text.split())
    assert "<i>run<" in shown.text
    assert "the first 2 of 700 tokens" in shown.text
    assert "No document did." in shown.text
    assert written.count("<polygon") == 2, "docs was not read between two validations"
    assert "this alignment keeps no account of its mass" in shown.text


def test_a_folder_of_no_run_is_refused_and_a_damaged_file_named(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.json' is not there: give the folder of a finished run"):
        left_by(tmp_path)
    folder = copy_of(finished, tmp_path / "run", clm=CLM)
    (folder / "headroom.json").write_text("{")
    with pytest.raises(ValueError, match=r"headroom\.json' is cut off or damaged .*remove it"):
        write_page(folder)
