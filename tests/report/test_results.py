"""Tables, files and pictures of what came out, against numbers by hand."""

import csv
import json
import math
import sys
from pathlib import Path

import pytest
from commands_for_tests import run_python
from rich.console import Console

from knowfuse import screen
from knowfuse.evaluation import Completed, ScoreTable, by_document, read_by_document
from knowfuse.report import __main__ as command
from knowfuse.report import show, tokens_to_clm_final, write_results
from knowfuse.report.results import times_sooner
from knowfuse.text.document import Document
from knowfuse.training.finished import Fit

ROWS = {
    "llama2": {"code": 1.0, "docs": 4.0},
    "mpt": {"code": 3.0, "docs": 1.5},
    "target before": {"code": 1.0, "docs": 4.0},
    "target fused": {"code": 1.0, "docs": 2.0},
}
DOCUMENTS = [Document("x" * 8, "code", "test"), Document("y" * 8, "docs", "test")]
BY_DOCUMENT = by_document(
    {name: {d.id: 8 * math.log(2) * bits[d.domain] for d in DOCUMENTS} for name, bits in ROWS.items()}, DOCUMENTS
)
TABLE = ScoreTable(
    ["code", "docs"],
    ROWS,
    BY_DOCUMENT,
    left_out=0,
    eos_nats={"llama2": 12.5, "target fused": 0.25},
    first_nats={"llama2": 4.0, "mpt": 5.0, "target fused": 6.0},
)


def fit(name: str, *history: tuple[int, float]) -> Fit:
    return Fit(name, "best.ckpt", min(bits for _, bits in history), 0.01, list(history))


CLM = fit("clm", (100, 3.0), (200, 2.0), (300, 1.0), (400, 1.5))  # best after 300 tokens


@pytest.mark.parametrize(
    ("history", "want"),
    [
        ([(100, 2.0), (200, 1.0)], 1.5),  # there at a validation: 300 / 200
        ([(100, 2.0), (200, 0.5)], 300 / (100 + 100 * 1.0 / 1.5)),  # between two: two thirds of the way
        ([(100, 0.9), (200, 0.5)], 3.0),  # there at the first validation, however long before
        ([(100, 2.0), (200, 1.5), (300, 1.25), (400, 1.0)], 0.75),  # later than CLM
        ([(100, 2.0), (200, 1.1)], None),  # never
        ([(100, 2.0), (200, 2.0), (300, 0.0)], 300 / 250),
    ],
)
def test_tokens_to_the_clm_fits_best(history: list[tuple[int, float]], want: float | None) -> None:
    got = tokens_to_clm_final({"clm": CLM, "fused": fit("fused", *history)})
    assert got == (None if want is None else pytest.approx(want))


def test_more_tokens_are_not_fewer() -> None:
    assert times_sooner(1.54) == ("1.5 times", "fewer")
    assert times_sooner(0.7) == ("1.4 times", "as many")


def test_without_a_clm_fit_there_is_nothing_to_reach() -> None:
    assert tokens_to_clm_final({"fused": CLM}) is None


def test_a_finished_run_as_the_readmes_table(tmp_path: Path) -> None:
    """`python -m knowfuse.report RUN`."""
    write_results(tmp_path, TABLE, {"clm": CLM, "fused": fit("fused", (100, 2.0), (200, 1.0))}, "the test split")
    printed = run_python("-m", "knowfuse.report", str(tmp_path), cache=tmp_path)
    assert printed.splitlines() == [
        "| bits per byte on the test split | code | docs | mean |",
        "| --- | --- | --- | --- |",
        "| llama2 | 1.000 | 4.000 | 2.500 |",
        "| mpt | 3.000 | 1.500 | 2.250 |",
        "| target before | 1.000 | 4.000 | 2.500 |",
        "| target fused | 1.000 | 2.000 | 1.500 |",
        "",
        "The fused target reaches plain CLM's best validation figure with 1.5 times fewer training tokens.",
        f"{tmp_path / 'report.html'}: the page of this run",
    ]
    assert (tmp_path / "report.md").read_text().splitlines() == printed.splitlines()[:-1]


def test_a_folder_of_no_run_has_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "is not there: give the folder of a finished run, or finish it with train.py" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", '{"unit": "bits', '{"unit": "bits per byte"}'])
def test_results_cut_off_are_named(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results.json").write_text(content)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"results\.json' is cut off or damaged .*remove it and run train\.py with"):
        command.main()


def shown(table: ScoreTable, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The table as plain text, and with the terminal's codes."""
    console = Console(record=True, width=120, force_terminal=True, color_system="standard")
    monkeypatch.setattr(screen, "console", console)
    show("A title", table)
    return console.export_text(clear=False), console.export_text(styles=True)


def test_the_best_of_each_column_is_bold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties are all bold; a mean is over the domains."""
    text, styled = shown(TABLE, monkeypatch)
    assert "A title" in text
    rows = {line.split("│")[1].strip(): line for line in styled.splitlines() if line.count("│") == 7}
    bold = {name: [f"\x1b[1m{v}" in line for v in ("1.000", "1.500")] for name, line in rows.items()}
    assert bold["llama2"] == [True, False]
    assert bold["mpt"] == [False, True]
    assert bold["target fused"] == [True, True]
    assert "\x1b[1m4.000" not in styled
    assert [cell.strip() for cell in text.splitlines()[4].split("│")[1:-1]] == [
        *("llama2", "1.000", "4.000", "2.500", "12.50", "4.00")
    ]


def test_what_was_asked_for_stands_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the screen and in `results.json`."""
    its = {name: Completed(16, 4) for name in TABLE.rows}
    table = ScoreTable(TABLE.domains, TABLE.rows, BY_DOCUMENT, left_out=0, completed=its)
    text, _ = shown(table, monkeypatch)
    assert "Python, share" in text
    assert text.count("0.25") == len(its)
    write_results(tmp_path, table, {"fused": CLM}, "the test split")
    got = json.loads((tmp_path / "results.json").read_text())["completions"]
    assert got == {name: {"prompts": 16, "accepted": 4} for name in its}


def test_documents_left_out_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    why = {"mpt": ["299 tokens, 'mpt' can hold 256", "other"], "target before": ["it spells another"]}
    some = ScoreTable(TABLE.domains, TABLE.rows, BY_DOCUMENT, left_out=3, set_aside=why)
    assert (
        "3 documents that some LLM cannot read are left out for all: mpt 2, the first for 299 tokens, 'mpt' can hold 256; "
        "target before 1, the first for it spells another"
    ) in " ".join(shown(some, monkeypatch)[0].split())
    assert "left out" not in shown(TABLE, monkeypatch)[0]


def test_the_files_of_a_run(tmp_path: Path) -> None:
    fits = {"clm": CLM, "fused": fit("fused", (100, 2.0), (200, 1.0))}
    write_results(tmp_path, TABLE, fits, "the validation split")
    files = ["documents.csv", "losses.png", "results.csv", "results.json", "results.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == files
    kept = read_by_document(tmp_path / "documents.csv")
    assert (kept.ids, kept.domains) == (BY_DOCUMENT.ids, BY_DOCUMENT.domains)
    assert {name: kept.bits_per_byte(name) for name in kept.nats} == ROWS
    got = json.loads((tmp_path / "results.json").read_text())
    assert got["unit"] == "bits per byte on the validation split"
    assert got["rows"]["mpt"] == {"code": 3.0, "docs": 1.5, "mean": 2.25}
    assert got["eos_nats"] == TABLE.eos_nats
    assert got["first_token_nats"] == TABLE.first_nats
    assert got["documents_left_out"] == 0
    assert got["tokens_to_clm_final"] == 1.5
    assert {method: Fit.from_json(values) for method, values in got["fits"].items()} == fits
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["model", "code", "docs", "mean", "eos_nats", "first_token_nats"]
    assert rows[1] == ["llama2", "1.0", "4.0", "2.5", "12.5", "4.0"]
    assert rows[2] == ["mpt", "3.0", "1.5", "2.25", "", "5.0"]
    for picture in ("losses.png", "results.png"):
        content = (tmp_path / picture).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000
