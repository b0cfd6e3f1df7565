"""Every page is linked, every link leads somewhere, and what is written from the settings is what they say now."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from experiments_for_tests import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import pictures  # pyright: ignore[reportMissingImports]
import written  # pyright: ignore[reportMissingImports]

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for place, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), place
        if page.is_relative_to(ROOT / "docs"):
            assert target.is_relative_to(ROOT / "docs"), f"{place} is not among the pages that are built"
        assert not anchor or anchor in anchors(target), f"{place}#{anchor}"


def test_every_page_is_in_the_navigation() -> None:
    def listed(node: object) -> set[str]:
        if isinstance(node, str):
            return {node}
        parts = node.values() if isinstance(node, dict) else node
        return {name for part in parts for name in listed(part)}  # type: ignore[union-attr]

    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    there = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert listed(settings["nav"]) == there


def test_the_reference_is_what_the_settings_say() -> None:
    """Otherwise: `python docs/written.py`."""
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert page == written.reference()
    for setting in ("`lm_weight`", "`fusion.granularity`", "`trainer.max_steps`", "`corpus.files`", "`tracing.place`"):
        assert f"| {setting} |" in page


@pytest.mark.long
def test_the_pictures_of_the_ideas_are_drawn_by_the_code(tmp_path: Path) -> None:
    """Each that the page shows, and no other. The files are written by `python docs/pictures.py`."""
    drawn = pictures.pictures()
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\(pictures/(.*)\.svg\)", page)) == sorted(drawn)
    assert sorted(path.stem for path in (ROOT / "docs" / "pictures").glob("*.svg")) == sorted(drawn)
    heights: dict[float, float] = {}
    for bar in drawn["mass"].axes[0].patches:
        heights[bar.get_x()] = heights.get(bar.get_x(), 0.0) + bar.get_height()
    assert list(heights.values()) == pytest.approx([1.0] * len(heights), abs=1e-5)


def test_licences_are_listed() -> None:
    """Of all that is required directly; what those need depends on the machine."""
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    required = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("dependencies = [")[2].partition("]")[0]
    names = re.findall(r'"([\w-]+)', required)
    assert len(names) > 20
    assert not [name for name in names if f"| {name} |" not in page]
    assert "| not said |" not in page
