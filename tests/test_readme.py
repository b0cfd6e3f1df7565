"""The commands of the README and of the guides, each as it stands there and made small by what follows it."""

import itertools
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from experiments_for_tests import ROOT, TINY, TINY_TRAINING, documents, local_llm, run_python
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from knowfuse.runs.described import experiment_of
from knowfuse.runs.experiment import Experiment

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = [*sorted((ROOT / "docs" / "guides").glob("*.md")), ROOT / "docs" / "extending.md"]
PAGES = "\n".join([README, *(page.read_text(encoding="utf-8") for page in GUIDES)])
FENCED = re.findall(r'^```(\w*)(?: title="(\S+)")?\n(.*?)^```', PAGES, re.DOTALL | re.MULTILINE)
BLOCKS = [(kind, block) for kind, name, block in FENCED if not name]
NAMED = [(name, block) for _, name, block in FENCED if name]  # files that a page tells to write
LINES = [line.partition("  #")[0].strip() for kind, block in BLOCKS if not kind for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith(("python ", "torchrun "))]
SHORT = ["compare_with_clm=false", "trainer.max_steps=1", "trainer.val_check_interval=1"]
OWN_TEXT = ["corpus.max_document_bytes=100", "corpus.validation_share=0.3", "corpus.test_share=0.3"]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user stands: the project's programs and settings, text, and two LLMs named as in the README's example."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(ROOT / "conf", folder / "conf")
    for program in ("train.py", "evaluate.py"):
        shutil.copy(ROOT / program, folder)
    texts = [d.text for d in documents(60)]
    (folder / "mine.txt").write_text("\n\n".join(" ".join(text.split()) for text in texts[:30]))
    (folder / "src").mkdir()
    (folder / "src" / "a.py").write_text("x = 1")
    many = [d.text for d in documents(400)]  # of which weights leave some
    for name, some in (("my notes, 2026 (1).txt", many[:200]), ("b [\u00e9].txt", many[200:])):
        (folder / name).write_text("\n\n".join(" ".join(text.split()) for text in some))
    said = [{"prompt": f"Say {n}.", "completion": f"{n}, as you said."} for n in range(200)]
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, said)))
    (folder / "more.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts[30:]))
    sources, target = [block for kind, block in BLOCKS if kind == "yaml"]
    specs = yaml.safe_load(sources)
    for name, architecture in zip(specs, ("llama", "mpt"), strict=True):
        local_llm(folder / name, architecture)
        specs[name] |= {"path": str(folder / name), "chat_template": "plain"}
    (folder / "conf" / "sources" / "mine.yaml").write_text(yaml.safe_dump(specs))
    (folder / "conf" / "target" / "mine.yaml").write_text(target)
    for name, content in NAMED:
        with (folder / name).open("a") as file:
            file.write(content)
    return folder


@pytest.fixture(scope="module")
def finished(user: Path, tiny_cache: Path) -> str:
    """The name of the folder of a finished run in outputs/quickstart."""
    run_python("train.py", *TINY_TRAINING, *SHORT, cache=tiny_cache, cwd=user)
    return next((user / "outputs" / "quickstart").iterdir()).name


def made_small(program: str, arguments: list[str]) -> list[str]:
    """The overrides that make a command one of seconds; a Markdown table needs none."""
    if "data=text_files" in arguments or "data=chat" in arguments:
        return [
            *(OWN_TEXT if "data=text_files" in arguments else OWN_TEXT[1:]),
            *(o for o in TINY_TRAINING if not o.startswith(("corpus.", "sources."))),
            *SHORT,
        ]
    if program == "train.py":
        return [*TINY_TRAINING, *SHORT]
    if program == "knowfuse.align_report":
        return [*TINY, "num_documents=8"]
    if program == "knowfuse.prepare":
        return TINY
    return []


def parts_of(command: str, finished: str = "2026-01-01_00-00-00") -> tuple[list[str], list[str], str]:
    """What starts its program, the program and its arguments, and the program's name."""
    words = shlex.split(command.replace("<date_time>", finished))
    launcher = [] if words[0] == "python" else ["-m", "torch.distributed.run", *words[1:3]]
    arguments = words[1:] if words[0] == "python" else words[3:]
    return launcher, arguments, arguments[1] if arguments[0] == "-m" else arguments[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_settings_of_a_command_are_there(command: str, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They compose, every point of a sweep, and build the run that they describe; the long tests run it."""
    _, arguments, program = parts_of(command)
    name = program.removesuffix(".py").removeprefix("knowfuse.")
    if name == "report":  # it has no configuration
        return
    monkeypatch.syspath_prepend(user)
    parsed = OverridesParser.create().parse_overrides([a for a in arguments if a not in ("-m", "--multirun", program)])
    values = [o.sweep_string_iterator() if o.is_sweep_override() else [o.get_value_element_as_str()] for o in parsed]
    with initialize_config_dir(version_base="1.3", config_dir=str(user / "conf")):
        for point in itertools.product(*values):
            cfg = compose(name, [f"{o.get_key_element()}={value}" for o, value in zip(parsed, point, strict=True)])
            if name in ("train", "plan"):
                assert isinstance(experiment_of(cfg), Experiment)


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(command: str, user: Path, tiny_cache: Path, finished: str) -> None:
    launcher, arguments, program = parts_of(command, finished)
    stated = {argument.split("=")[0] for argument in arguments}
    small = [o for o in made_small(program, arguments) if o.split("=")[0] not in stated]
    run_python(*launcher, *arguments, *small, cache=tiny_cache, cwd=user)


def test_the_pages_say_how_to_sweep() -> None:
    """That line has a test of its own, with a server."""
    assert "wandb sweep conf/sweep/fusion.yaml" in PAGES


def test_a_rule_takes_20_lines_and_an_alignment_40() -> None:
    """As their page says; imports, which both share, aside."""
    rule, alignment = (block.partition("\ndef ")[2] for name, block in NAMED if name == "mine.py")
    assert len(rule.splitlines()) <= 20
    assert len(alignment.splitlines()) <= 40


def test_the_readme_is_one_screen_before_it_goes_on() -> None:
    """What it is, how it is run, and what comes out."""
    above = README.partition("## When it pays")[0]
    assert above.count("\n") < 75
    assert README.count("\n") < 120


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 9, "the README is read as it is written"
