"""Which files a pattern means, compared with the ones that were written."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knowfuse.text.patterns import files_of, is_pattern

FILES = [
    "a.py",
    "b.txt",
    "src/c.py",
    "src/deep/er/d.py",
    "src/deep/e.md",
    "src/.git/config.py",
    "src/.hidden.py",
    "src/notes [1]/f.py",
    "src/1/g.py",
    "src/st*r/h.py",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*.py", ["a.py"]),
        ("src/*.py", ["src/c.py"]),
        ("src/**/*.py", ["src/1/g.py", "src/c.py", "src/deep/er/d.py", "src/notes [1]/f.py", "src/st*r/h.py"]),
        (
            "src/**",
            ["src/1/g.py", "src/c.py", "src/deep/e.md", "src/deep/er/d.py", "src/notes [1]/f.py", "src/st*r/h.py"],
        ),
        ("**/deep/*", ["src/deep/e.md"]),
        ("src/notes [1]/*.py", ["src/notes [1]/f.py"]),
        ("src/st*r/*.py", ["src/st*r/h.py"]),
        ("src/[0-9]/?.py", ["src/1/g.py"]),
        ("src/.git/*.py", ["src/.git/config.py"]),
        ("src/.*.py", ["src/.hidden.py"]),
        ("src/../*.py", ["a.py"]),
        ("gone/**/*.py", []),
        ("a.py/*", []),
        ("*", ["a.py", "b.txt"]),
    ],
)
def test_a_pattern_fits_these(root: Path, pattern: str, fits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from where the user stands, and by its whole path."""
    assert [str(path.resolve().relative_to(root)) for path in files_of(f"{root}/{pattern}")] == fits
    monkeypatch.chdir(root)
    assert [os.path.normpath(path) for path in files_of(pattern)] == fits


def test_links_to_folders_are_not_entered_at_any_depth(root: Path) -> None:
    (root / "src" / "loop").symlink_to(root / "src")
    (root / "src" / "z.py").symlink_to(root / "a.py")
    found = files_of(f"{root}/src/**/*.py")
    assert root / "src" / "z.py" in found
    assert not [path for path in found if "loop" in path.parts]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(name=st.text(st.sampled_from("a[]*?!- #%,'\"{}()=\u00fc\\"), min_size=1, max_size=8))
def test_a_file_is_found_by_its_name_whatever_letters_it_has(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("")
    assert files_of(f"{folder}/{name}") == [folder / name]
    assert folder / name in files_of(f"{folder}/*")


def test_what_is_wild() -> None:
    assert all(map(is_pattern, ("*", "a?", "[ab]", "src/**/x")))
    assert not is_pattern("notes (1), {2}.txt")
