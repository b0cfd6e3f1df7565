"""A file of settings that is none, or that chooses what is not there, is named with its line or entry, without a stack."""

import shutil
from pathlib import Path

import pytest
from experiments_for_tests import ROOT

from knowfuse.commands.readable import require_readable

FAULTS = {
    "small:\n\tpath: x\n": r"line 2, column 1, is no YAML \(found character '\\t' that cannot start any token\)",
    "small: {path: x}\nsmall: {path: y}\n": r"line 2, column 1, is no YAML \(found duplicate key small\)",
    "small:\n  path: x\n   dtype: y\n": r"line 3, column 9, is no YAML \(mapping values are not allowed here\)",
    "small: {path: x\n": r"line 2, column 1, is no YAML \(expected ',' or '}'",
}


@pytest.mark.parametrize("content", FAULTS)
def test_a_file_that_is_no_yaml(tmp_path: Path, content: str) -> None:
    """Chosen alone, or as one of several; what the command does not name may be as it is."""
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf" / "sources", conf / "sources")
    (conf / "sources" / "mine.yaml").write_text(content)
    for word in ("sources=mine", "+sources=[quickstart,mine]", "sources=quickstart,mine", "sources@other=mine"):
        with pytest.raises(
            SystemExit, match=rf"^conf/sources/mine\.yaml, {FAULTS[content]}.*: indent with spaces, by as many"
        ):
            require_readable(["top_k=8", word], conf, "train")
    require_readable(["sources=quickstart", "cache=/sources/mine", "run=[a,b]"], conf, "train")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# @package _global_\nname: caf\u00e9\n", r"is not UTF-8 \(byte 29\): save it as UTF-8"),
        ("- lm_weight: 0.5\n", r"holds a list: it must hold settings, each as 'name: value'"),
        ("lm_weight: 0.5\n", r"has to begin with the line '# @package _global_'"),
        ("defaults:\n  - override /fusion: avg_ce\n", r"has to begin with the line '# @package _global_'"),
        (
            "# @package _global_\nsources: [small, other]\n",
            r"has 'sources: \[small, other\]', where sources has settings of its own, which --cfg job prints; a choice is made by\n"
            r"defaults:\n  - override /sources: \[small, other\]",
        ),
        ("# @package _global_\ntrainer: gpu\n", r"has 'trainer: gpu'.*\n.*\n  - override /trainer: gpu"),
        (
            "# @package _global_\nloss: tail\n",
            r"has 'loss: tail', where loss has settings of its own, which --cfg job prints$",
        ),
        ("# @package _global_\ncorpus: [mine.txt]\n", r"has 'corpus: \[mine.txt\]', .*prints$"),
        (
            "# @package _global_\ndefaults:\n  - override /fusion: avg_cee\n",
            r"chooses fusion: avg_cee, and there is no conf/fusion/avg_cee\.yaml: did you mean avg_ce\?",
        ),
        (
            "# @package _global_\ndefaults:\n  - override /sources: [quickstart, gpt2]\n",
            r"chooses sources: gpt2, and there is no conf/sources/gpt2\.yaml: write that file, or choose one of fusechat_7b",
        ),
        (
            "# @package _global_\ndefaults:\n  - fusion: avg_ce\n",
            r"has '- fusion: avg_ce' among its defaults, which would be of conf/experiment/fusion: write '- override /fusion: avg_ce'",
        ),
    ],
)
def test_an_experiment_that_hydra_would_not_read_as_it_is_meant(mine: Path, content: str, said: str) -> None:
    mine.write_bytes(content.encode("latin-1"))
    with pytest.raises(SystemExit, match=rf"^conf/experiment/mine\.yaml {said}"):
        require_readable(["experiment=mine"], mine.parent.parent, "train")


@pytest.mark.parametrize(
    "content",
    [
        "# @package _global_\ndefaults:\n  - override /fusion: avg_ce\n  - override /hydra/sweeper: nowhere\n"
        "  - optional override /data: none\n  - _self_\nname: a\ndebug: self\nlearning_rates: [1e-3]\ntarget: ${sources.llama2}\n",
        "# of another package\n# @package trainer\nmax_steps: 3\n",
    ],
)
def test_an_experiment_that_hydra_reads(mine: Path, content: str) -> None:
    mine.write_text(content)
    require_readable(["+experiment=mine"], mine.parent.parent, "train")


def test_a_file_is_read_that_a_chosen_one_chooses(mine: Path) -> None:
    mine.write_text("# @package _global_\ndefaults:\n  - override /fusion: mine\n")
    (mine.parent.parent / "fusion" / "mine.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(SystemExit, match=r"^conf/fusion/mine\.yaml, line 2.* is no YAML"):
        require_readable(["experiment=mine"], mine.parent.parent, "train")


@pytest.mark.parametrize("word", ["sources=null", "+experiment=null", "logger=[csv,null]"])
def test_null_is_no_choice(word: str) -> None:
    group = word.lstrip("+").partition("=")[0]
    with pytest.raises(SystemExit, match=rf"null is no file of conf/{group}; leave {group} out, or choose one of "):
        require_readable([word, "clm_learning_rates=null"], ROOT / "conf", "train")


def test_two_that_make_one_object_are_not_chosen_together() -> None:
    """Their settings would be mixed; experiments, and sources, which have names, are."""
    with pytest.raises(SystemExit, match=r"^logger=\[csv,tensorboard\]: each of csv, tensorboard is one of its own"):
        require_readable(["logger=[csv,tensorboard]"], ROOT / "conf", "train")
    words = [
        "experiment=[fusechat,methods]",
        "sources=[small_llms,fusellm_7b]",
        "logger=[csv]",
        "logger=csv,tensorboard",
    ]
    require_readable(words, ROOT / "conf", "train")


def test_every_file_of_ours_is_read() -> None:
    words = [f"{file.parent.name}={file.stem}" for file in (ROOT / "conf").glob("*/*.yaml")]
    require_readable(words, ROOT / "conf", "train")
    for command in (ROOT / "conf").glob("*.yaml"):
        require_readable([], ROOT / "conf", command.stem)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The place of an experiment in a copy of our settings."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    return tmp_path / "conf" / "experiment" / "mine.yaml"
