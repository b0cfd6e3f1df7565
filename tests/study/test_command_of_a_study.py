"""The command line of a study, as its tables say it."""

import argparse
from pathlib import Path

import pytest

from knowfuse.study import asked_of


@pytest.mark.parametrize("results", [["--results", "elsewhere"], ["--results=elsewhere"], []])
def test_a_table_says_its_command_but_not_where_it_is(results: list[str], tmp_path: Path) -> None:
    """It can be pasted into a shell; what comes after -- is left as it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int)
    parser.add_argument("overrides", nargs="*")
    script = tmp_path / "benchmarks" / "one.py"
    asked = asked_of(parser, str(script), ["--seeds", "3", *results, "--", "a='b c'", "top_k=5"])
    assert asked.command == """`python benchmarks/one.py --seeds 3 -- 'a='"'"'b c'"'"'' top_k=5`"""
    assert (asked.seeds, asked.overrides) == (3, ["a='b c'", "top_k=5"])
    assert asked.results == (Path("elsewhere") if results else tmp_path / "docs" / "results")
