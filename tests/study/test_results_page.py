"""The page of our results: its tables are what their files say."""

from commands_for_tests import ROOT

from knowfuse.study.page import with_tables


def test_the_tables_of_the_page_are_those_of_their_files() -> None:
    """`python -m knowfuse.study docs/results.md` would change nothing."""
    page = ROOT / "docs" / "results.md"
    assert with_tables(page) == page.read_text(encoding="utf-8")
