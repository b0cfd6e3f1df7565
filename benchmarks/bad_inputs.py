"""Is each of many bad inputs answered by what to do, without a traceback, and with nothing changed on disk?

    python benchmarks/bad_inputs.py --page docs/errors.md

Each line of bad_inputs.yaml is run by a shell, in a folder where a user stands: our programs and settings made small, a prepared cache,
a finished run and a stopped one, texts, tokenizers and LLMs that are damaged in one way each. Python is forked from a process that has
imported what takes seconds (tests/command_server.py). Prints JSON: `tried`, `clear` (the exit status is not zero and it says what it is
to say), `tracebacks`, `files_changed` (commands that left something outside the cache), `more_in_the_cache` (those that read a text or
cut it into tokens before the fault could be seen, which the next run finds done), and what is wrong with whom. `--only WORD` runs the
lines that hold it; `--page` writes the page of them all.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from commands_for_tests import environment_with, run_python, stand_in  # noqa: E402  # pyright: ignore[reportMissingImports]
from experiments_for_tests import TINY_TRAINING, documents, local_llm  # noqa: E402  # pyright: ignore[reportMissingImports]

CASES = ROOT / "benchmarks" / "bad_inputs.yaml"
HEAD = """# What went wrong?

What our programs say to {number} bad inputs, by where the fault is: each command as it was typed, the message it ended with, the cause, and
the remedy. All of them end with an exit status that is not 0, print no stack (`HYDRA_FULL_ERROR=1` adds it), and change nothing on disk;
what a text or its tokens are, once read, and a trained target, once saved, stay in the cache for the next start.
This page is written by `python benchmarks/bad_inputs.py --page docs/errors.md`, which runs them.
"""


@dataclass(frozen=True)
class Case:
    """A line for the shell, and what is wrong with it."""

    area: str
    line: str
    says: str  # must be in what is printed, whatever the line breaks
    cause: str
    remedy: str


@dataclass(frozen=True)
class Outcome:
    """What came of it; `message` is the last thing that was said, without the names of temporary folders."""

    message: str
    is_clear: bool
    has_traceback: bool
    changed: list[str]


def cases() -> list[Case]:
    """All of bad_inputs.yaml."""
    listed = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    return [Case(area, **case) for area, of_area in listed.items() for case in of_area]


def try_all(chosen: Sequence[Case], folder: Path) -> list[Outcome]:
    """Run each in `folder`, which `stand` has filled."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    environment = environment_with(KNOWFUSE_CACHE=str(folder / "cache"))
    environment["PATH"] = f"{stand_in().parent}{os.pathsep}{environment['PATH']}"
    outcomes = []
    for n, case in enumerate(chosen, 1):
        outcomes.append(_try(case, folder / "user", environment))
        print(f"{n} of {len(chosen)}: {case.line}\n{outcomes[-1].message}\n", file=sys.stderr, flush=True)
    return outcomes


def _try(case: Case, user: Path, environment: dict[str, str]) -> Outcome:
    before = _state(user.parent)
    done = subprocess.run(
        ["bash", "-c", case.line], cwd=user, env=environment, capture_output=True, text=True, timeout=300
    )
    after = _state(user.parent)
    said = done.stdout + done.stderr
    flat = " ".join(said.split())
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    is_clear = done.returncode != 0 and " ".join(case.says.split()) in flat
    return Outcome(_message(done.stderr or done.stdout, user.parent), is_clear, "Traceback" in said, changed)


def _state(folder: Path) -> dict[str, bytes]:
    """What is in each file, by its path; of one beyond 100 kB its size and time. Locks, which are empty, do not count."""
    found = {}
    for path in folder.rglob("*"):
        if path.suffix == ".lock":
            continue
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = b""
        elif (stat := path.lstat()).st_size > 100_000:
            found[name] = f"{stat.st_size} {stat.st_mtime_ns}".encode()
        else:
            found[name] = path.read_bytes()
    return found


def _message(printed: str, folder: Path) -> str:
    """Without Hydra's own first and last words, and the place of the temporary folder."""
    lines = printed.replace(f"{folder}/", "").replace(str(Path.home()), "~").splitlines()
    kept = [
        line.rstrip() for line in lines if not re.match(r"Error executing job|Set the environment variable HYDRA", line)
    ]
    return "\n".join(kept).strip()


def stand(folder: Path) -> None:
    """Fill `folder` with what a user has: `user`, where commands run, and `cache`."""
    user, cache = folder / "user", folder / "cache"
    shutil.copytree(ROOT / "conf", user / "conf")
    for program in ("train.py", "evaluate.py"):
        shutil.copy(ROOT / program, user)
    small(user / "conf")
    run_python("train.py", "hydra.run.dir=outputs/quickstart/done", cache=cache, cwd=user)
    shutil.copytree(user / "outputs" / "quickstart" / "done", stopped := user / "outputs" / "quickstart" / "stopped")
    for left in [
        *stopped.glob("fits/*/fit.json"),
        *(stopped / name for name in ("results.json", "results.csv", "report.html")),
    ]:
        left.unlink()
    text_files(user)
    experiments(user / "conf" / "experiment")
    conversations(user)
    llms(user)
    results(user)
    damaged(user, cache)


def small(conf: Path) -> None:
    """The quickstart in seconds, as the default of this folder: what the tests say on the command line."""
    files = [
        conf / f"{name}.yaml" for name in ("train", "prepare", "align_report", "sources/quickstart", "data/quickstart")
    ]
    for override in [*TINY_TRAINING, "compare_with_clm=false", "trainer.max_steps=2", "samples=0"]:
        setting, _, value = override.partition("=")
        has_it = {file: setting for file in files if OmegaConf.select(OmegaConf.load(file), setting) is not None}
        if setting.startswith("trainer."):
            has_it[conf / "trainer" / "cpu.yaml"] = setting.removeprefix("trainer.")
        for path, key in has_it.items():
            header = "# @package _global_\n" if "@package _global_" in path.read_text() else ""
            settings = OmegaConf.load(path)
            OmegaConf.update(settings, key, OmegaConf.create(f"value: {value}").value)
            path.write_text(header + OmegaConf.to_yaml(settings))


def text_files(user: Path) -> None:
    """Texts, sound and not."""
    texts = [" ".join(d.text.split()) for d in documents(60)]
    (user / "mine.txt").write_text("\n\n".join(texts))
    (user / "notes (1).txt").write_text("\n\n".join(texts))
    (user / "empty.txt").write_text("")
    (user / "latin.txt").write_bytes("na\u00efve caf\u00e9".encode("latin-1"))
    (user / "bad.jsonl").write_text("\n".join(['{"text": "fine"}', *(['{"text": '] * 10)]))
    (user / "other.jsonl").write_text("\n".join(json.dumps({"content": text}) for text in texts))
    (user / "lists.jsonl").write_text("\n".join(json.dumps({"text": [text]}) for text in texts))
    (user / "torn.txt.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03KL")
    (user / "torn.parquet").write_bytes(b"PAR1 and no more")
    (user / "one.txt").write_text("A single text.")
    (user / "long.txt").write_text("word after word " * 60)


def experiments(folder: Path) -> None:
    """Files of settings with one fault each."""
    package = "# @package _global_\n"
    (folder / "tabs.yaml").write_text(f"{package}loss:\n\tform: tail\n")
    (folder / "twice.yaml").write_text(f"{package}name: a\nname: b\n")
    (folder / "colon.yaml").write_text(f"{package}name: a: b\n")
    (folder / "headless.yaml").write_text("lm_weight: 0.5\n")
    (folder / "names.yaml").write_text(f"{package}sources: [gpt2, llm]\n")
    (folder / "no_override.yaml").write_text(f"{package}defaults:\n  - fusion: avg_ce\n")
    (folder / "misspelt.yaml").write_text(f"{package}defaults:\n  - override /fusion: avgce\n")


def conversations(user: Path) -> None:
    """Conversations, and templates, sound and not."""
    ask, tell = {"role": "user", "content": "So?"}, {"role": "assistant", "content": "So."}
    sound: list[Any] = [{"messages": [ask, {**tell, "content": d.text.strip()}]} for d in documents(60)]
    listed: dict[str, list[Any]] = {
        "chat": sound,
        "unanswered": [{"messages": [ask]}],
        "hollow": [{"messages": [ask, {**tell, "content": ""}]}],
        "tools": [{"messages": [ask, {**tell, "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}]}],
        "boss": [*sound[:1], {"messages": [{**ask, "role": "boss"}, tell]}],
        "shapes": [{"question": "So?"}, {"messages": "So?"}, {"messages": [ask, {**tell, "content": ["So."]}]}],
        "twice": [{"messages": [ask, tell, tell]}],
    }
    for name, rows in listed.items():
        (user / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (user / "raises.jinja").write_text("{{ raise_exception('no') }}")
    (user / "alternates.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] + eos_token }}{% endfor %}"
    )


def llms(user: Path) -> None:
    """A sound LLM, and copies of it with one fault each."""
    sound = user / "llm"
    local_llm(sound)
    (user / "conf" / "sources" / "mine.yaml").write_text("mine: {_target_: knowfuse.types.LLMSpec, path: llm}\n")
    (user / "conf" / "target" / "mine.yaml").write_text("# @package _global_\ntarget: ${sources.mine}\n")
    for name in ("torn_weights", "no_weights", "no_config", "torn_tokenizer", "no_tokenizer", "own_code"):
        shutil.copytree(sound, user / name)
    weights = user / "torn_weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (user / "no_weights" / "model.safetensors").unlink()
    (user / "no_config" / "config.json").unlink()
    (user / "torn_tokenizer" / "tokenizer.json").write_text('{"model": ')
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (user / "no_tokenizer" / file).unlink()
    config = user / "own_code" / "config.json"
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    config.write_text(json.dumps({**json.loads(config.read_text()), **own}))


def results(user: Path) -> None:
    """A run of whose documents the last are gone, and a page with a table that does not end."""
    shutil.copytree(user / "outputs" / "quickstart" / "done", short := user / "outputs" / "quickstart" / "short")
    lines = (short / "documents.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (short / "documents.csv").write_text("".join(lines[:4]), encoding="utf-8")
    (user / "open.md").write_text("# Mine\n\n<!-- table: results.csv -->\n\nWhat it means.\n", encoding="utf-8")


def damaged(user: Path, cache: Path) -> None:
    """Checkpoints that are none, one of which would run a command, and one flipped bit in what a source said, in a cache of its own."""
    evil, torn = (
        user / "outputs" / "quickstart" / name / "fits" / "fused-lr0.002" / "last.ckpt" for name in ("evil", "torn")
    )
    for file in (evil, torn):
        file.parent.mkdir(parents=True)
    torch.save({"state_dict": {}, "a program": _Runs()}, evil)
    torn.write_bytes(b"PK\x03\x04 and no more")
    shutil.copytree(cache, user.parent / "flipped")
    shard = max((user.parent / "flipped" / "traces").rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


class _Runs:
    """What a pickle can hold: a call that is made when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def page(tried: Sequence[tuple[Case, Outcome]]) -> str:
    """All of them as Markdown."""
    lines = [HEAD.format(number=len(tried))]
    for area, of_area in groupby(tried, key=lambda pair: pair[0].area):
        lines.append(f"## {area.capitalize()}\n")
        for case, outcome in of_area:
            lines.append(f"```text\n$ {case.line}\n{outcome.message}\n```\n\n{case.cause} **{case.remedy}**\n")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--folder", type=Path, help="where a user stands; made where it is not there, and kept")
    options = parser.parse_args()
    chosen = [case for case in cases() if options.only in f"{case.area}: {case.line}"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        if not (folder / "user").exists():
            stand(folder)
        outcomes = try_all(chosen, folder)
    tried = list(zip(chosen, outcomes, strict=True))
    if options.page:
        options.page.write_text(page(tried), encoding="utf-8")
    wrong = {c.line: asdict(o) for c, o in tried if not o.is_clear or o.has_traceback or o.changed}
    found = {"tried": len(tried), "clear": sum(o.is_clear for o in outcomes)}
    found["tracebacks"] = sum(o.has_traceback for o in outcomes)
    found["files_changed"] = sum(any(not path.startswith("cache/") for path in o.changed) for o in outcomes)
    found["more_in_the_cache"] = sum(any(path.startswith("cache/") for path in o.changed) for o in outcomes)
    print(json.dumps({**found, "wrong": wrong}))


if __name__ == "__main__":
    main()
