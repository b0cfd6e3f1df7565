"""What is printed to be pasted is read back as it was, by the shell and then by Hydra's own parser."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from knowfuse.text.quoting import override, path_override

NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("[]{}(),:=\"'\\$ #*~&|;<>!%@"), min_size=1
)


def pasted(line: str) -> tuple[str, object]:
    (word,) = shlex.split(line)
    parsed = OverridesParser.create().parse_override(word)
    return parsed.key_or_group, plain(parsed.value())


def plain(value: object) -> object:
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.text if isinstance(value, QuotedString) else value


@given(
    st.dictionaries(st.sampled_from(["wiki", "my_text", "a-b"]), st.lists(NAMES, min_size=1, max_size=3), min_size=1)
)
def test_names_of_files_are_read_back(files: dict[str, list[str]]) -> None:
    line = override("corpus.files", files)
    assert line is not None
    assert pasted(line) == ("corpus.files", files)


@given(NAMES)
def test_a_path_is_read_back(name: str) -> None:
    assert pasted(path_override("run", f"outputs/{name}")) == ("run", f"outputs/{name}")


@pytest.mark.parametrize("path", ["/tmp/a/2026-01-31_12-00-00", "outputs/x.ckpt", "./x", "../x"])
def test_a_path_of_plain_letters_stays_plain(path: str) -> None:
    assert path_override("run", path) == f"run={path}"
    assert pasted(path_override("run", path)) == ("run", path)


@pytest.mark.parametrize(
    "value", ["null", "True", "1", "1e3", "nan", "-inf", "a b", "", "end\\", 'q\\"', None, True, 3, 0.5]
)
def test_words_stay_words_and_numbers_numbers(value: object) -> None:
    line = override("key", [value])
    assert line is not None
    ((got,),) = [pasted(line)[1]]  # type: ignore[misc]
    assert (type(got), got) == (type(value), value)


def test_it_stands_in_the_command_as_people_write_it() -> None:
    assert (
        override("corpus.files", {"w": ["a.txt", "notes (1).txt"]}) == "'corpus.files={w: [a.txt, \"notes (1).txt\"]}'"
    )
    assert override("run", "outputs/a") == "run=outputs/a"


def test_a_key_that_the_grammar_lacks() -> None:
    assert override("corpus.files", {"\u00fc": ["a.txt"]}) is None


def test_it_reaches_the_settings() -> None:
    """Beyond the parser: what OmegaConf makes of it."""
    line = override("files", {"w": ["a, b [1].txt"]})
    assert line is not None
    parsed = OverridesParser.create().parse_override(shlex.split(line)[0])
    cfg = OmegaConf.create({"files": None})
    OmegaConf.update(cfg, "files", parsed.value())
    assert cfg.files == {"w": ["a, b [1].txt"]}
