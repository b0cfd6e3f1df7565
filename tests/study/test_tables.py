"""Tables of studies: what runs become, their files, and pages that are written from these."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_for_tests import DOCUMENTS, left_by_train

from knowfuse.evaluation import Compared, Interval
from knowfuse.runs.judged import judged
from knowfuse.study import (
    Finished,
    Point,
    intervals,
    lines_of,
    lines_of_intervals,
    markdown,
    read_lines,
    trained,
    write_lines,
)
from knowfuse.study.page import with_tables, write_tables

PAID = np.random.default_rng(0).gamma(2.0, 10.0, 8)


def finished(folder: Path, better: float = 0.0, seed: int = 0, **place: Any) -> Finished:
    """Its fused target pays less than its CLM one by `better` nats a document."""
    nats = {"mpt": PAID, "target clm": PAID + 1 + seed, "target fused": PAID + 1 + seed - better}
    left_by_train(folder, nats, {"clm": 2.5, "fused": 2.4}, seed=seed, **place)
    return Finished(Point(str(place), {**place, "name": "all"}), seed, folder)


def test_a_line_for_every_llm_with_the_settings_that_differ(tmp_path: Path) -> None:
    """Its fit's best validation and the tokens until then; a source has none."""
    lines = lines_of([finished(tmp_path / "a", lm_weight=0.1), finished(tmp_path / "b", lm_weight=0.3)])
    assert [(line["lm_weight"], line["llm"]) for line in lines] == [
        (weight, llm) for weight in (0.1, 0.3) for llm in ("mpt", "target clm", "target fused")
    ]
    assert not any("name" in line for line in lines), "it is the same in all"
    fused = lines[2]
    assert (fused["validation"], fused["tokens"], fused["learning_rate"]) == (2.4, 200, 0.002)
    assert (lines[0]["validation"], lines[0]["tokens"]) == (None, None)
    assert fused["mean"] == pytest.approx(np.mean([fused[domain] for domain in ("code", "docs")]))  # type: ignore[arg-type]
    assert fused["run"] == "a"


def test_intervals_are_paired_over_documents_and_seeds(tmp_path: Path) -> None:
    """What both pay more with another seed is no difference between them; a source that is there once is beside all seeds."""
    runs = [finished(tmp_path / str(seed), 0.5, seed) for seed in (1, 0)]
    rows = {"clm": trained(runs, "clm"), "fused": trained(runs), "mpt": [(runs[0].judged, "mpt")]}
    found = intervals(rows, "clm")
    assert {name: row.seeds for name, row in found.items()} == {"clm": 2, "fused": 2, "mpt": 1}
    more = found["fused"].more_than_baseline["mean"]
    assert more.low <= more.value <= more.high < 0
    assert found["clm"].more_than_baseline["mean"].value == 0
    lines = lines_of_intervals(found, {"mpt": {"parameters": 7}})
    assert [line["row"] for line in lines] == ["clm", "fused", "mpt"]
    assert (lines[2]["parameters"], lines[1]["more"]) == (7, more.value)


def test_a_comparison_over_different_texts_is_refused(tmp_path: Path) -> None:
    one = finished(tmp_path / "one")
    left_by_train(tmp_path / "two", {"target fused": [1.0] * 4}, {}, DOCUMENTS[:4])
    with pytest.raises(ValueError, match=r"one' and .*two' are over different texts \(8 and 4 documents, 4 of both\)"):
        intervals({"clm": [(one.judged, "target clm")], "x": [(judged(str(tmp_path / "two")), "target fused")]}, "clm")


CELLS = st.one_of(
    st.none(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False, width=16),
    st.text(alphabet='ab ,"=\n[]', min_size=1).map(lambda text: f"t{text}t"),
)


@settings(max_examples=50)
@given(lines=st.lists(st.fixed_dictionaries({"name": st.just("x"), "b, c": CELLS, "d": CELLS}), min_size=1))
def test_lines_come_back_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, lines: list[dict]) -> None:
    """Figures to seven digits; a whole float is one again."""
    file = tmp_path_factory.mktemp("lines") / "study.csv"
    write_lines(file, ["python benchmarks/x.py", "two cores"], lines)
    heading, read = read_lines(file)
    assert heading == ["python benchmarks/x.py", "two cores"]
    for line, before in zip(read, lines, strict=True):
        for key, value in before.items():
            assert line[key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value)
            assert type(line[key]) is type(value)


@pytest.mark.parametrize("text", ["", "# only\n", "a,b\n1,2,3\n"])
def test_a_damaged_table_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.csv").write_text(text)
    with pytest.raises(ValueError, match=r"study\.csv' is cut off or damaged .*run the command of its study again"):
        read_lines(tmp_path / "study.csv")


LINES = [
    {
        "row": "clm",
        "tokens": 12000,
        "mean": 2.5,
        "low": 2.4,
        "high": 2.6,
        "more": 0.0,
        "more_low": 0.0,
        "more_high": 0.0,
    },
    {
        "row": "fused",
        "tokens": None,
        "mean": 2.4,
        "low": 2.3,
        "high": 2.5,
        "more": -0.1,
        "more_low": -0.2,
        "more_high": 0.05,
    },
]


def test_a_table_on_paper() -> None:
    assert markdown(LINES).splitlines() == [
        "| row | tokens | mean | more |",
        "| --- | --- | --- | --- |",
        "| clm | 12,000 | 2.5000 (2.4000 to 2.6000) | +0.0000 (+0.0000 to +0.0000) |",
        "| fused |  | **2.4000 (2.3000 to 2.5000)** | -0.1000 (-0.2000 to +0.0500) |",
    ]
    assert markdown(LINES, ["mean", "row"]).startswith("| mean | row |\n")
    with pytest.raises(ValueError, match=r"no column 'median': choose from \['row', 'tokens', 'mean', 'more'\]"):
        markdown(LINES, ["median"])


def test_a_page_is_written_from_its_tables(tmp_path: Path) -> None:
    """Whatever stood there before; the words around them stay."""
    (tmp_path / "results").mkdir()
    write_lines(tmp_path / "results" / "study.csv", ["python benchmarks/x.py, two cores"], LINES)
    page = tmp_path / "results.md"
    page.write_text("Before.\n<!-- table: results/study.csv row more -->\nby hand\n<!-- end -->\nAfter.\n")
    write_tables(page)
    expected = (
        "Before.\n<!-- table: results/study.csv row more -->\n| row | more |\n| --- | --- |\n"
        "| clm | +0.0000 (+0.0000 to +0.0000) |\n| fused | -0.1000 (-0.2000 to +0.0500) |\n\n"
        "python benchmarks/x.py, two cores\n<!-- end -->\nAfter.\n"
    )
    assert page.read_text() == expected
    assert with_tables(page) == expected, "written again it is the same"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no table", r"page\.md' names no table: put one between <!-- table: <file>\.csv"),
        (
            "<!-- table: gone.csv -->\n<!-- end -->",
            r"names gone\.csv, which is not beside it: run the study that writes it",
        ),
        (
            "<!-- table: there.csv -->\nWhat a user wrote.\n<!-- table: there.csv -->\n<!-- end -->\n",
            r"page\.md', line 1, '<!-- table: there\.csv -->' is no whole table: begin it by .*, and end it by <!-- end -->",
        ),
        (
            "<!-- table: there.csv -->\n<!-- end -->\n<!--table: there.csv-->\n<!-- end -->\n",
            r"page\.md', line 3, '<!--table: there\.csv-->' is no whole table",
        ),
    ],
)
def test_a_page_without_its_tables_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """And stays as it is."""
    write_lines(tmp_path / "there.csv", [], LINES)
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=message):
        write_tables(tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == text


def test_a_page_behind_a_link_is_written_where_it_is(tmp_path: Path) -> None:
    write_lines(tmp_path / "there.csv", [], LINES)
    (tmp_path / "page.md").write_text("<!-- table: there.csv row -->\n<!-- end -->\n")
    (tmp_path / "link.md").symlink_to(tmp_path / "page.md")
    write_tables(tmp_path / "link.md")
    assert (tmp_path / "link.md").is_symlink()
    assert "| fused |" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize("name", ["007", "1e5", "nan", "inf", "1_000", "+1"])
def test_a_row_may_be_called_what_looks_like_a_number(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / "there.csv", [], [{"row": name, "mean": 2.5}])
    assert read_lines(tmp_path / "there.csv")[1] == [{"row": name, "mean": 2.5}]


def test_a_domain_may_end_as_a_bound_does_and_not_be_one(tmp_path: Path) -> None:
    """`flow` is a column; `low` would be the interval's."""
    figure = Interval(1.0, 0.5, 1.5)
    compared = {"fused": Compared({"flow": figure, "mean": figure}, {"flow": figure, "mean": figure}, 1)}
    assert markdown(lines_of_intervals(compared)).startswith("| row | seeds | flow | mean | more |")
    clash = {"fused": Compared({"low": figure, "mean": figure}, {"low": figure, "mean": figure}, 1)}
    with pytest.raises(
        ValueError, match=r"a domain is called 'low', and so is a column .*: give it another name in corpus"
    ):
        lines_of_intervals(clash)
