"""Runs in one table: what is one row, how rows are named, and what does not compare."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from knowfuse.evaluation import by_document, write_by_document
from knowfuse.runs.compared import compared
from knowfuse.runs.judged import Judged, save_evaluated
from knowfuse.text.document import Document

DOCUMENTS = [Document(f"document {n}", "docs" if n % 2 else "code", "test") for n in range(8)]
RANDOM = np.random.default_rng(0)
SOURCE = RANDOM.gamma(2.0, 10.0, 8)
SETTINGS = {"seed": 0, "name": "runs", "fusion": {"_target_": "knowfuse.fusion.min_ce.min_ce"}, "top_k": 10}


def run(folder: Path, nats: dict[str, Any], documents: Sequence[Document] = DOCUMENTS, **settings: Any) -> str:
    """A folder as `train.py` leaves it, as far as a comparison looks."""
    folder.mkdir()
    OmegaConf.save(OmegaConf.create({**SETTINGS, **settings}), folder / "config.yaml")
    by_id = {name: {d.id: float(n) for d, n in zip(documents, paid, strict=True)} for name, paid in nats.items()}
    scores = by_document(by_id, documents)
    rows = {name: {**scores.shared().bits_per_byte(name), "mean": 1.0} for name in nats}
    results = {"unit": "bits per byte on the test split", "rows": rows, "fits": {}}
    (folder / "results.json").write_text(json.dumps(results))
    write_by_document(folder / "documents.csv", scores)
    return str(folder)


def no_texts(_: Judged) -> tuple[Sequence[Document], Path]:
    raise AssertionError("no other LLM is asked")


def test_runs_of_several_seeds_are_one_row_and_a_source_is_there_once(tmp_path: Path) -> None:
    """Whatever the runs are named, and in the order of their seeds."""
    places = [
        run(
            tmp_path / f"{seed}",
            {"mpt": SOURCE, "target clm": SOURCE + 1, "target fused": SOURCE - seed / 10},
            seed=seed,
        )
        for seed in (2, 1)
    ]
    table = compared(places, no_texts)
    assert list(table.rows) == ["mpt", "target clm", "target fused"]
    assert {name: row.seeds for name, row in table.rows.items()} == {"mpt": 1, "target clm": 1, "target fused": 2}
    assert table.baseline == "target clm"
    assert (table.documents, table.left_out) == (8, 0)
    assert table.rows["target fused"].more_than_baseline["mean"].high < 0
    assert table.unit == "bits per byte on the test split"


def test_domains_of_one_document_that_all_can_read_are_named(tmp_path: Path) -> None:
    docs = [n for n, document in enumerate(DOCUMENTS) if document.domain == "docs"]
    read_by_few = SOURCE.copy()
    read_by_few[docs[1:]] = np.nan
    table = compared([run(tmp_path / "few", {"mpt": read_by_few, "target clm": SOURCE})], no_texts)
    assert (table.documents, table.left_out, table.alone) == (5, 3, ["docs"])


def test_rows_of_different_runs_are_named_by_the_settings_that_differ(tmp_path: Path) -> None:
    """And those that came out the same, as plain CLM does whatever the fusion, are one."""
    rows = {"mpt": SOURCE, "target clm": SOURCE + 1}
    one = run(tmp_path / "one", {**rows, "target fused": SOURCE - 1})
    other = {"_target_": "knowfuse.fusion.avg_ce.avg_ce", "temperature": 0.1}
    two = run(tmp_path / "two", {**rows, "target fused": SOURCE - 2}, fusion=other, logger={"save_dir": "elsewhere"})
    assert list(compared([one, two], no_texts, baseline="mpt").rows) == [
        "mpt",
        "target clm",
        "target fused, fusion=min_ce",
        "target fused, fusion=avg_ce",
    ]


def test_runs_of_other_seeds_compare_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [
        run(tmp_path / f"{seed}", {"mpt": SOURCE, "target fused": SOURCE - seed}, seed=seed, top_k=seed)
        for seed in (1, 7)
    ]
    compared(places, no_texts)
    said = " ".join(capsys.readouterr().out.split())
    assert "these runs have seeds [1, 7]: what tells them apart may be the seed, of which the intervals know" in said


def test_rows_are_named_by_no_more_settings_than_tell_them_apart(tmp_path: Path) -> None:
    """Of four that change together one is enough; a setting that one of them lacks tells it apart by its absence."""
    avg = {"_target_": "knowfuse.fusion.avg_ce.avg_ce", "temperature": 0.1, "weighting": "softmax"}
    kinds: list[dict[str, Any]] = [
        {"top_k": 5, "lm_weight": 0.5, "schedule": "linear"},
        {"fusion": avg},
        {"fusion": {**avg, "temperature": 1.0, "weighting": "reference"}},
    ]
    places = [
        run(tmp_path / f"{n}", {"target clm": SOURCE, "target fused": SOURCE - n - 1}, **kind)
        for n, kind in enumerate(kinds)
    ]
    table = compared(places, no_texts)
    names = [name.removeprefix("target fused, ") for name in table.rows if "fused" in name]
    assert names == ["fusion=min_ce", "fusion=avg_ce, fusion.temperature=0.1", "fusion=avg_ce, fusion.temperature=1.0"]
    assert table.unnamed == ["fusion.weighting", "lm_weight", "schedule", "top_k"]
    assert compared(places[:2], no_texts).unnamed == ["lm_weight", "schedule", "top_k"], "not what comes with avg_ce"


def test_a_setting_that_is_null_is_one_that_is_not_there(tmp_path: Path) -> None:
    """As older runs lack it: seeds of both are one row, and a value of it tells a run apart from both."""
    kinds: list[dict[str, Any]] = [{"seed": 1, "cap": None}, {"seed": 2}, {"seed": 1, "cap": 5}, {"seed": 2, "cap": 5}]
    places = [
        run(tmp_path / f"{n}", {"target clm": SOURCE, "target fused": SOURCE - n - 1}, **kind)
        for n, kind in enumerate(kinds)
    ]
    table = compared(places, no_texts)
    assert {name: row.seeds for name, row in table.rows.items()} == {
        "target clm": 1,
        "target fused": 2,
        "target fused, cap=5": 2,
    }


def test_a_source_that_cannot_read_a_document_says_the_same_with_every_seed(tmp_path: Path) -> None:
    cannot = [np.nan, *SOURCE[1:]]
    places = [run(tmp_path / f"{seed}", {"mpt": cannot, "target fused": SOURCE - seed}, seed=seed) for seed in (1, 2)]
    assert {name: row.seeds for name, row in compared(places, no_texts).rows.items()} == {"mpt": 1, "target fused": 2}


def test_one_seed_beside_several_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [
        run(tmp_path / f"{k} {s}", {"target clm": SOURCE, "target fused": SOURCE - k + s}, top_k=k, seed=s)
        for k, s in ((10, 0), (10, 1), (5, 0))
    ]
    compared(places, no_texts)
    assert "5 0 is of seed 0 alone, others are of [0, 1]: of what another seed would" in " ".join(
        capsys.readouterr().out.split()
    )


def test_documents_that_one_cannot_read_are_left_out_for_all(tmp_path: Path) -> None:
    cannot = [np.nan, *SOURCE[1:]]
    table = compared([run(tmp_path / "one", {"mpt": cannot, "target clm": SOURCE})], no_texts)
    assert (table.documents, table.left_out) == (7, 1)


def test_an_evaluation_is_compared_by_the_settings_of_its_run(tmp_path: Path) -> None:
    """On other text, with the text it was asked about kept for those who are asked next."""
    place = Path(run(tmp_path / "elsewhere", {"target clm": SOURCE, "target fused": SOURCE}))
    (place / "config.yaml").unlink()
    evaluated = {"split": "test", "corpus": {"files": {"docs": ["a.txt"]}}}
    save_evaluated(place, SETTINGS, evaluated)
    asked = []

    def texts(judged: Judged) -> tuple[Sequence[Document], Path]:
        asked.append(judged)
        return DOCUMENTS[1:], tmp_path

    assert list(compared([str(place)], no_texts).rows) == ["target clm", "target fused"]
    with pytest.raises(ValueError, match=r"elsewhere' are not what its settings give now"):
        compared([str(place), "some/model"], texts)
    assert [(run.evaluated, run.settings) for run in asked] == [(evaluated, SETTINGS)]
    for content in ("", "run: [", "run: {}"):
        (place / "evaluated.yaml").write_text(content)
        with pytest.raises(
            ValueError, match=r"evaluated\.yaml' is cut off or damaged .*: run that evaluate\.py once more"
        ):
            compared([str(place)], no_texts)


@pytest.mark.parametrize("what", ["texts", "bytes", "twice", "name", "seeds", "file", "nothing", "baseline", "no run"])
def test_what_does_not_compare_is_refused(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run(tmp_path / "one", {"target clm": SOURCE})
    places, baseline = [one], None
    if what == "texts":
        places.append(run(tmp_path / "two", {"target clm": SOURCE[:4]}, DOCUMENTS[:4]))
        message = r"one' and .*two' are over different texts \(8 and 4 documents, 4 of both\)"
    elif what == "bytes":  # of a conversation what its assistant says, or all
        learnt_in_part = [Document(d.text, d.domain, "test", prompt_bytes=5) for d in DOCUMENTS]
        places.append(run(tmp_path / "two", {"target clm": SOURCE}, learnt_in_part))
        message = r"different texts \(the same documents, of which 80 and 40 bytes count\), .* such as corpus\.learn"
    elif what == "twice":
        places.append(run(tmp_path / "two", {"target clm": SOURCE}))
        message = r"one' and .*two' are the same run, seed 0: give one"
    elif what == "name":
        monkeypatch.chdir(tmp_path)
        Path("target clm").mkdir()
        Path("target clm/config.json").write_text("{}")
        places.append("target clm")
        message = (
            r"compare= has LLM 'target clm', and the runs have a row of that name: give its folder as '\./target clm'"
        )
    elif what == "seeds":
        places += [
            run(tmp_path / f"{k} {s}", {"target clm": SOURCE}, top_k=k, seed=s) for k, s in ((10, 1), (5, 0), (5, 2))
        ]
        message = r"these runs have seeds \[\(0, 1\), \(0, 2\)\]: give runs of the same seeds"
    elif what == "file":
        (tmp_path / "one" / "documents.csv").unlink()
        message = r"one' has no documents\.csv, which older versions did not write: run python evaluate\.py run="
    elif what == "nothing":
        places.append(str(tmp_path))
        message = "is neither the folder of a finished run nor of an evaluation, nor an LLM"
    elif what == "baseline":
        baseline, message = "target fused", r"baseline is 'target fused': choose one of \['target clm'\]"
    else:
        places, message = ["some/model"], "compare= has no run, whose texts the others are compared on"
    with pytest.raises(ValueError, match=message):
        compared(places, no_texts, baseline)
