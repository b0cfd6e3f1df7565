"""The table of a comparison, as a user reads it."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgba

from knowfuse.evaluation import Compared, Interval
from knowfuse.report import write_comparison
from knowfuse.report.compared import markdown, picture
from knowfuse.runs.compared import Comparison

NONE = Interval(0.0, 0.0, 0.0)
TABLE = Comparison(
    unit="bits per byte on the test split",
    baseline="target clm",
    rows={
        "target clm": Compared(
            {"code": Interval(1.0, 0.9, 1.1), "mean": Interval(1.5, 1.25, 1.75)}, {"code": NONE, "mean": NONE}, 1
        ),
        "target fused": Compared(
            {"code": Interval(0.875, 0.8, 1.0), "mean": Interval(1.375, 1.0, 1.5)},
            {"code": Interval(-0.125, -0.25, 0.0), "mean": Interval(-0.125, -0.1875, -0.0625)},
            5,
        ),
    },
    documents=1234,
    left_out=2,
)


def test_the_files_of_a_comparison(tmp_path: Path) -> None:
    write_comparison(tmp_path, TABLE)
    assert (tmp_path / "comparison.md").read_text().splitlines() == [
        "| bits per byte | code | mean | more than target clm | seeds |",
        "| --- | --- | --- | --- | --- |",
        "| target clm | 1.0000 | 1.5000 (1.2500 to 1.7500) |  | 1 |",
        "| target fused | 0.8750 | 1.3750 (1.0000 to 1.5000) | -0.1250 (-0.1875 to -0.0625) | 5 |",
        "",
        "95 % intervals: 1,234 documents drawn anew within their domains, seeds by Student's t; paired; 2 that some of "
        "them cannot read are left out",
    ]
    with (tmp_path / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["domain"]) for row in rows] == [
        *(("target clm", "code"), ("target clm", "mean")),
        *(("target fused", "code"), ("target fused", "mean")),
    ]
    assert rows[3]["more_high"] == "-0.0625"
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert kept["rows"]["target fused"]["more_than_baseline"]["mean"] == {
        "value": -0.125,
        "low": -0.1875,
        "high": -0.0625,
    }
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_settings_that_no_name_says_stand_below(tmp_path: Path) -> None:
    write_comparison(tmp_path, replace(TABLE, left_out=0, unnamed=["block_tokens", "trainer.max_steps"]))
    assert (
        (tmp_path / "comparison.md")
        .read_text()
        .splitlines()[-1]
        .endswith("paired. The runs differ in what no name says, too: block_tokens, trainer.max_steps")
    )


def test_domains_of_one_document_are_named_and_no_difference_by_them_alone_is_coloured() -> None:
    sure = Interval(-0.125, np.nextafter(-0.125, 0), np.nextafter(-0.125, 0))  # drawn, and so rounded otherwise
    rows = {
        "target clm": Compared({"code": NONE, "mean": NONE}, {"code": NONE, "mean": NONE}, 1),
        "target fused": Compared({"code": sure, "mean": sure}, {"code": sure, "mean": sure}, 1),
    }
    alone = replace(TABLE, rows=rows, documents=1, left_out=0, alone=["code"])
    assert markdown(alone).endswith(
        "paired; one document is all there is of code: of others like it they say nothing\n"
    )
    colours = [list(line.get_color()[0]) for line in picture(alone).axes[0].collections]
    assert colours == [list(to_rgba("tab:gray"))] * 2
