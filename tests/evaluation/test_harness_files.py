"""The files that are found for a task, a tag or a group, against the harness's own index of all files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from experiments_for_tests import ROOT, composed
from lm_eval.tasks import TaskManager

from knowfuse.evaluation.harness_files import harness_files

FILES = {
    "a/_default_yaml": "tag: [shared, 'of_a']\noutput_type: multiple_choice\n",
    "a/one.yaml": "include: _default_yaml\ntask: one\n",
    "a/b/two.yaml": "include: ../_default_yaml\ntask: two # the second\ntag:\n- of_two\n- shared\n",
    "c/three.yaml": 'task: "three"\ntag:\n  - shared\n',
    "c/group.yaml": "group: all\ntask:\n- one\n- group: inner\n  task: [two]\n- task: three\n  alias: drei\nversion: 1\n",
    "c/more.yaml": "task:\n  - four\n  - all\n  - shared\ngroup: more\n",
    "d/_five": "task: five\n",
    "d/five.yaml": "include: _five\n",
    "d/four.yaml": "task: four\n",
}


def index(folder: Path) -> dict[str, Any]:
    return TaskManager(include_path=[folder], include_defaults=False).task_index


def parts(name: str, whole: dict[str, Any]) -> set[str]:
    """What the harness looks up to build it."""
    found: set[str] = set()
    left = [name]
    while left:
        if (name := left.pop()) in whole and name not in found:
            found.add(name)
            entry = whole[name]
            left += entry.tags if entry.cfg is None else _members(entry.cfg.get("task")) if "group" in entry.cfg else []
    return found


def _members(listed: Any) -> Iterator[str]:
    if isinstance(listed, str):
        yield listed
    for each in listed if isinstance(listed, list) else []:
        for stated in (each.get("task"), each.get("group")) if isinstance(each, dict) else (each,):
            yield from _members(stated)


def assert_found(folder: Path, names: Iterable[str], whole: dict[str, Any], links: Path) -> None:
    """All that the harness needs of these names is as it would be, had it read all files."""
    names = list(names)
    harness_files(folder).link(names, links)
    mine = index(links)
    for name in set().union(*(parts(name, whole) for name in names)):
        one, other = mine[name], whole[name]
        assert (one.kind, one.cfg, one.tags) == (other.kind, other.cfg, other.tags), name
        assert one.yaml_path is None or one.yaml_path.resolve() == other.yaml_path.resolve(), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harness")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", ["one", "two", "three", "five", "shared", "of_a", "of_two", "all", "more"])
def test_what_is_found_of_a_name_is_what_the_harness_finds(folder: Path, tmp_path: Path, name: str) -> None:
    """Tasks, what they include, tags that are said in templates, groups of groups and of tags."""
    whole = index(folder)
    assert set(whole) <= harness_files(folder).names
    assert_found(folder, [name], whole, tmp_path)


def test_no_other_file_is_read(folder: Path) -> None:
    assert harness_files(folder).of(["four"]) == [Path("c/more.yaml"), Path("d/four.yaml")]
    assert harness_files(folder).of(["no such"]) == []


@pytest.mark.long
def test_what_is_found_of_the_suites_is_what_the_harness_finds(tmp_path: Path) -> None:
    """Ours, and its largest groups and tags."""
    folder = Path(lm_eval.tasks.__file__).parent
    whole = TaskManager().task_index
    suites = [path.stem for path in sorted((ROOT / "conf" / "evaluation").glob("*.yaml"))]
    names = {name for suite in suites for name in composed("evaluate", f"evaluation={suite}").tasks}
    assert set(whole) <= harness_files(folder).names
    for n, asked in enumerate(
        [names, *([name] for name in ("mmlu", "leaderboard", "ai2_arc", "bbh", "glue", "afrobench"))]
    ):
        assert_found(folder, asked, whole, tmp_path / str(n))
