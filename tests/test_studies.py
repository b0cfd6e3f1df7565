"""The studies of `benchmarks/`, made small: what they print, and what they refuse."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pytest
import specialists
import study
import teachers
from commands_for_tests import ROOT, run_python
from experiments_for_tests import TINY_TRAINING
from specialist_texts import split_texts

from knowfuse.study import Runs, read_lines

SMALL = [
    "--seeds",
    "1",
    "--specialist-steps",
    "4",
    "--fusion-bytes",
    "6000",
    "--specialist-bytes",
    "9000",
    "--rates",
    "1e-2",
    "--gates",
    "better",
]
OF_LLMS = [o for o in TINY_TRAINING if o.startswith(("sources.", "corpus."))]
OF_RUNS = [o for o in TINY_TRAINING if o not in OF_LLMS and not o.startswith(("learning_rates", "clm_learning"))]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Of our programs, each in a process forked for it."""

    def start(program: str, overrides: Sequence[str], root: Path) -> None:
        run_python(program, *overrides, cache=tmp_path / "cache", cwd=root)

    return Runs(tmp_path / "runs", ROOT, tmp_path / "cache", start)


@pytest.mark.long
def test_specialists_in_miniature(runs: Runs, tmp_path: Path) -> None:
    """Everything real: three LLMs of other tokenizers, each tuned on its domain, fused, compared, asked what was forgotten."""
    line = [*SMALL, "--results", str(tmp_path), "--quickstart", *OF_LLMS]
    asked = specialists.arguments([*line, "--", *OF_RUNS, "corpus.max_document_bytes=120"])
    figures = specialists.study(runs, asked)
    assert figures.keys() == {
        *("seeds", "wins_over_clm", "gain_bits_per_byte", "gain_interval", "tokens_to_clm_best", "forgetting_fused"),
        *("forgetting_clm", "answers_bits_per_byte_gain"),
    }
    low, high = figures["gain_interval"]
    assert low <= figures["gain_bits_per_byte"] <= high
    heading, rows = read_lines(tmp_path / "specialists_intervals.csv")
    assert "9,000 bytes and 4 steps" in heading[0]
    by_row = {row["row"]: row for row in rows}
    assert list(by_row) == [
        "plain CLM",
        "fused",
        "target before",
        *(f"specialist {d}" for d in ("code", "docs", "prose")),
    ]
    assert by_row["fused"]["more"] == pytest.approx(-figures["gain_bits_per_byte"], rel=1e-5)
    _, lines = read_lines(tmp_path / "specialists.csv")
    assert {line["loss.gate"] for line in lines} == {"better"}


@pytest.mark.long
def test_teachers_in_miniature(runs: Runs) -> None:
    """Every teacher of two domains, each of which learnt more than it knew, and what stands in the table is what is printed."""
    line = [*SMALL, "--quickstart", *OF_LLMS, "--", *OF_RUNS, "corpus.max_document_bytes=120"]
    asked = argparse.Namespace(seeds=1, steps=4, rates=[1e-2], text="fusion", miniature=line)
    found = teachers.lines(runs, asked)
    assert [(x["domain"], x["teacher"]) for x in found] == [
        (domain, teacher)
        for domain in ("docs", "prose")
        for teacher in ("before", "plain CLM", teachers.OWN, teachers.SAME, teachers.OTHER)
    ]
    mean = {(x["domain"], x["teacher"]): x["mean"] for x in found}
    more = teachers.figures(found)["more_than_clm"]["docs"][teachers.SAME]
    assert more == pytest.approx(mean["docs", teachers.SAME] - mean["docs", "plain CLM"], abs=1e-4)
    assert len({x["its_own"] for x in found if x["its_own"]}) == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--texts", "a=b.txt"], "--texts is set: give all of --texts, --llms, --target and --forget"),
        (
            ["--forget", "gone.txt"],
            "--forget has 'gone.txt', and there is no such file: give one of text that the target",
        ),
        (["--texts", "b.txt"], "--texts has 'b.txt': it must be domain=..., such as math=gsm8k.jsonl"),
        (
            ["--texts", "a=b.txt", "--llms", "c=d", "--target", "d", "--forget", __file__],
            r"--texts has domains ['a'] and --llms ['c']: give one LLM for each domain",
        ),
    ],
)
def test_arguments_that_do_not_go_together_are_told(
    line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        specialists.arguments(line)
    assert message in " ".join(capsys.readouterr().err.split())


def test_no_text_is_on_both_sides(tmp_path: Path) -> None:
    """And a domain with too little for both is told."""
    texts = {"a": [f"text number {n}" for n in range(100)]}
    files = split_texts(texts, tmp_path, 500, 700)
    sides = [set(Path(files[side]["a"]).read_text().splitlines()) for side in ("fusion", "specialist")]
    assert not sides[0] & sides[1]
    assert [len(side) >= 30 for side in sides] == [True, True]
    with pytest.raises(
        ValueError, match=r"domain 'a' has [\d,]+ bytes of text for its specialist side, 70,000 are asked"
    ):
        split_texts(texts, tmp_path, 500, 70_000)


def test_the_study_needs_mergekit_and_says_so_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before it makes an LLM."""
    from knowfuse.llms import merging

    monkeypatch.setattr(merging, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["study.py", "--results", str(tmp_path)])
    with pytest.raises(
        ValueError, match=r"merging needs mergekit, which is not installed: pip install -e '\.\[merge\]'"
    ):
        study.main()
