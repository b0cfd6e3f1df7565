"""Which files the user means, and what is said where there is none."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from knowfuse.text.findings import Findings
from knowfuse.text.rows import TextRows
from knowfuse.text.text_files import TextFiles, domains_of_files


def files_of(*names: str) -> list[tuple[Path, bool]]:
    (domain,) = domains_of_files({"one": list(names)}, "text")
    return domain.files


def refused(files: Any, text_field: Any = "text") -> str:
    with pytest.raises(ValueError, match=r"corpus|text") as caught:
        domains_of_files(files, text_field)
    return str(caught.value)


def parsed(line: str) -> Any:
    """What a command line that an error prints sets, as Hydra's parser and OmegaConf read it."""
    (word,) = shlex.split(line)
    override = OverridesParser.create().parse_override(word)
    return override.key_or_group, OmegaConf.to_container(OmegaConf.create({"value": override.value()}))["value"]  # type: ignore[index]


def line_in(message: str) -> str:
    """The override that is printed in an error: from the quote before its name to the end."""
    return message[message.index("'corpus.files=") :].splitlines()[0]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_and_patterns_in_their_order(here: Path) -> None:
    """A name that is there is no pattern; what a pattern finds is sorted."""
    for name in ("b.txt", "a [1].txt", "z.jsonl.gz", "src/b.py", "src/a.py", "src/.git/x.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("x")
    assert files_of("b.txt", "a [1].txt", "src/**/*.py", "z.jsonl.gz") == [
        (Path("b.txt"), True),
        (Path("a [1].txt"), True),
        (Path("src/a.py"), False),
        (Path("src/b.py"), False),
        (Path("z.jsonl.gz"), True),
    ]
    assert files_of("a*.txt", f"{here}/b.txt") == [(Path("a [1].txt"), False), (here / "b.txt", True)]


def test_home_is_known(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "a.txt").write_text("x")
    assert files_of("~/a.txt", "~/*.txt") == [(here / "a.txt", True), (here / "a.txt", False)]


def test_fields_by_domain(here: Path) -> None:
    (here / "a.txt").write_text("x")
    files = {"math": ["a.txt"], "wiki": ["a.txt"]}
    fields = {each.domain: each.rows.state for each in domains_of_files(files, {"math": ["question", "answer"]})}
    assert fields == {"math": ["question", "answer"], "wiki": ["text"]}
    assert domains_of_files(files, "body")[1].rows.state == ["body"]
    for wrong in (3, [], [""], {"math": None}):
        assert "it must be the name of a field, such as text, or a list of names" in refused(files, wrong)


def test_the_state_is_the_content_and_its_kind(here: Path) -> None:
    """Not the name: who moves a file does not read it again."""
    for name in ("a.txt", "moved to.txt", "a.jsonl", "other.txt"):
        (here / name).write_text("other" if "other" in name else '{"text": "x"}')
    states = {
        name: json.dumps(TextFiles("one", [(here / name, True)], TextRows(["text"], "x")).state(None))
        for name in os.listdir(here)
    }
    assert states["a.txt"] == states["moved to.txt"]
    assert len(set(states.values())) == 3
    assert TextFiles("one", [(here / "a.jsonl", True)], TextRows(["body"], "x")).state(None) != json.loads(
        states["a.jsonl"]
    )
    assert TextFiles("two", [(here / "a.jsonl", True)], TextRows(["text"], "x")).state(None) != json.loads(
        states["a.jsonl"]
    )


def test_all_files_that_are_not_there_are_told_at_once(here: Path) -> None:
    (here / "folder").mkdir()
    (here / "a.docx").write_text("x")
    message = refused({"one": ["gone.txt", "folder", "a.docx"], "two": ["gone/**/*.py", "gone.jsonl"]})
    assert "the text has 5 places that cannot be read" in message
    for said in (
        f"corpus file 'gone.txt' does not exist (looked from {str(here)!r})",
        "corpus file 'folder' is a directory",
        "a pattern such as 'folder/**/*.txt'",
        "corpus file 'a.docx' ends in '.docx', known are .txt, .jsonl, .parquet, each also with .gz or .zst",
        "a pattern, such as 'src/**/*.py', reads each file that it fits as one text",
        f"corpus file 'gone/**/*.py' is a pattern that fits no file (looked from {str(here)!r})",
        "corpus file 'gone.jsonl' does not exist",
    ):
        assert said in message


@pytest.mark.parametrize("name", ["notes, 2026.txt", "a,b (1) [x].txt", "\u00fcber, alles.txt", 'it\'s, "so".txt'])
def test_a_name_cut_at_its_comma_is_printed_as_it_must_be_written(here: Path, name: str) -> None:
    """Hydra reads `[notes, 2026.txt]` as two names. The line in the error pastes back, and finds the file."""
    (here / name).write_text("x")
    (here / "b.txt").write_text("x")
    cut = [piece.strip() for piece in name.split(",")]
    key, files = parsed(line_in(refused({"w": ["b.txt", *cut], "v": ["b.txt"]})))
    assert key == "corpus.files"
    assert files == {"w": ["b.txt", name], "v": ["b.txt"]}
    assert domains_of_files(files, "text")[0].files[1] == (Path(name), True)


@pytest.mark.parametrize(
    ("files", "meant"),
    [
        ("my notes (1).txt", {"mine": ["my notes (1).txt"]}),
        (["a.txt", "b, c.txt"], {"mine": ["a.txt", "b, c.txt"]}),
        ({"one": "caf\u00e9.txt"}, {"one": ["caf\u00e9.txt"]}),
        ({"one": None}, {"one": ["one.txt"]}),
        ({"one": []}, {"one": ["one.txt"]}),
        ({"one": [3]}, {"one": ["one.txt"]}),
    ],
)
def test_files_that_are_no_mapping_of_lists(files: Any, meant: dict[str, list[str]]) -> None:
    message = refused(files)
    assert "it must map each domain to a list of files" in message or "it must be a list of files" in message
    assert parsed(line_in(message)) == ("corpus.files", meant)


@pytest.mark.parametrize("domain", ["mean", "a/b", "..", "a b", "", 3])
def test_a_domain_that_cannot_name_a_column(domain: Any) -> None:
    message = refused({domain: ["a.txt"]})
    assert f"corpus.files has a domain {domain!r}, and domains name columns and files: use letters" in message
    assert "not 'mean', which is the column of their mean" in message


def test_nothing_is_held_out_and_a_seed_draws(here: Path) -> None:
    for n in range(20):
        (here / f"{n}.txt").write_text("\n\n".join(f"{n} {m}" for m in range(10)))
    (domain,) = domains_of_files({"one": ["*.txt"]}, "text")
    assert list(domain.held_out(Findings())) == []
    in_order = [raw.text for raw in domain.training(Findings(), None)]
    drawn = [raw.text for raw in domain.training(Findings(), "0 one")]
    assert in_order == [f"{n} {m}" for n in sorted(map(str, range(20))) for m in range(10)]
    assert drawn != in_order
    assert sorted(drawn) == sorted(in_order)
    assert drawn == [raw.text for raw in domain.training(Findings(), "0 one")]
    assert {raw.split for raw in domain.training(Findings(), None)} == {None}
