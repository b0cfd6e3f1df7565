"""Does a command that is killed anywhere end, started again, as if nobody had killed it?

    python benchmarks/crash.py --kills 20

Each kill has a copy of what was there before its stage: prepare (alone, and on two ranks as torchrun starts them), train, evaluate,
export. The stage is killed by SIGKILL, at any time or while a file of the corpus, of a source LLM, of a shard of traces, of
a checkpoint or of its results is written; then the same command runs again. `corrupt_files` are those in their places right after
the kill, and at the end, that cannot be read whole; `identical` counts the kills after which all files (traces as they are read,
shards being cut where the kill fell) are those of an undisturbed stage; `lost_work_max_s` is how much longer a killed stage and
its repetition took than one undisturbed, in seconds of CPU time of all ranks.
"""

import argparse
import hashlib
import json
import random
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import hydra
import torch
import yaml
from disturbed import ROOT, SHORT, SMALL, Command, Ended, Recording, WhileWriting, run, same
from hydra import compose, initialize_config_dir
from rich.console import Console
from safetensors import safe_open

from knowfuse.screen import quiet_libraries

RUN = "outputs/run"
BESIDE = {".hydra", "said"}  # what says when, not what
TOLD = (".log", ".lock")
MOST_DELAY_S = 1.0  # after a file's change, of a kill at any time


@dataclass
class Stage:
    """A command, what it finds and what it leaves; in an argument `{n}` is the number of the attempt, `{here}` the user's folder."""

    name: str
    command: Command
    before: str | None  # the stage that it follows
    written: tuple[str, ...]  # parts of names of files, to be killed while one is written
    seconds: float = 0.0
    changes: list[str] = field(default_factory=list)

    def attempt(self, n: int, here: Path) -> Command:
        words = self.command.arguments
        arguments = tuple(word.replace("{n}", str(n)).replace("{here}", str(here)) for word in words)
        return Command(self.command.program, arguments, self.command.world)


def stages(overrides: list[str]) -> dict[str, Stage]:
    prepare = Command("-m knowfuse.prepare", (*SMALL, *overrides))
    train = Command("train.py", (*SMALL, *SHORT, *overrides, f"hydra.run.dir={RUN}", "ckpt_path=auto"))
    evaluate = Command("evaluate.py", (f"run={RUN}", "hydra.run.dir=outputs/evaluated-{n}", "split=validation"))
    export = Command("-m knowfuse.export", (f"run={{here}}/{RUN}", "folder={here}/exported"))
    all_of_them = [
        Stage("prepare", prepare, None, ("/corpora/", "/recipes/", "shard-")),
        Stage("prepare on two ranks", Command(prepare.program, prepare.arguments, 2), None, ("shard-", "/tokens/")),
        Stage("train", train, "prepare", ("last.ckpt", "best.ckpt", "fit.json", "samples.json", "results.json")),
        Stage("evaluate", evaluate, "train", ("results.json", "documents.csv")),
        Stage("export", export, "train", ("exported",)),
    ]
    return {stage.name: stage for stage in all_of_them}


class World:
    """A folder that every attempt sees under the same name, and the copies of it before and after each stage."""

    def __init__(self, root: Path) -> None:
        self.root, self.here = root, root / "here"

    def kept(self, name: str) -> Path:
        return self.root / "after" / name

    def restore(self, before: str | None) -> None:
        shutil.rmtree(self.here, ignore_errors=True)
        if before is None:
            self.here.mkdir(parents=True)
        else:
            shutil.copytree(self.kept(before), self.here)

    def keep(self, name: str) -> None:
        shutil.copytree(self.here, self.kept(name))


def files_in(folder: Path) -> dict[str, Path]:
    """What counts, by its name from the folder; of the attempts of an evaluation one stands for all."""
    found = (path for path in folder.rglob("*") if path.is_file() and not BESIDE & set(path.parts))
    return {_name(path.relative_to(folder).as_posix()): path for path in found if not path.name.endswith(TOLD)}


def _name(path: str) -> str:
    return path.replace("evaluated-1", "evaluated").replace("evaluated-2", "evaluated")


def corrupt(folder: Path) -> list[str]:
    """Files in their places that cannot be read whole."""
    return [name for name, path in files_in(folder).items() if not is_unfinished(name) and not is_whole(path)]


def is_unfinished(name: str) -> bool:
    """Whether a file is beside its place, or in a folder that is, where a kill may leave it."""
    return name.endswith(".part") or ".part/" in name


def is_whole(path: Path) -> bool:
    try:
        if path.suffix in (".json", ".yaml"):
            (json.loads if path.suffix == ".json" else yaml.safe_load)(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, "np") as tensors:
                [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118  # it is no dict
        elif path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".html":
            return path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    except Exception as error:  # each library has its own
        print(f"{path}: {type(error).__name__}: {error}")
        return False
    return path.stat().st_size > 0


def said_by_sources(world: World, overrides: list[str]) -> str:
    """One number for all traces, document by document, and each source's reasons to have none."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose("train", [*SMALL, *overrides, f"cache={world.here / 'cache'}"])
    prepared = hydra.utils.instantiate(cfg, _convert_="all").prepare()
    digest = hashlib.sha256()
    for name, source in sorted(prepared.sources.items()):
        digest.update(f"{name} {sorted(source.store.set_aside.items())}".encode())
        for document in prepared.corpus.split("fusion"):
            if document.id not in source.store.set_aside:
                trace = source.store.read(document.id)
                for array in (trace.input_ids, trace.ends, trace.topk.ids, trace.topk.log_probs, trace.nll):
                    digest.update(torch.as_tensor(array).numpy().tobytes())
    return digest.hexdigest()


def differing(world: World, stage: Stage, traces: str, overrides: list[str]) -> list[str]:
    """Files of this stage that are not those of the undisturbed one; `.part` files, which a kill may leave, are no difference."""
    mine, its = files_in(world.here), files_in(world.kept(stage.name))
    names = {name for name in {*mine, *its} if not is_unfinished(name)}
    other = sorted(name for name in names if name not in mine or name not in its or not is_same(mine[name], its[name]))
    kept = [name for name in other if not name.startswith("cache/traces/")]
    if kept != other and said_by_sources(world, overrides) != traces:
        kept.append("traces, as they are read")
    return kept


def is_same(mine: Path, its: Path) -> bool:
    one, other = mine.read_bytes(), its.read_bytes()
    if one == other:
        return True
    if mine.suffix == ".ckpt":
        return same(*(torch.load(path, weights_only=True) for path in (mine, its)))
    return _name(one.decode(errors="replace")) == _name(other.decode(errors="replace"))


def undisturbed(world: World, stage: Stage) -> None:
    """Run the stage as nobody disturbs it, keep what it leaves, and what it changed on the way."""
    world.restore(stage.before)
    changes = world.root / f"{stage.name} changes"
    ended = run(stage.attempt(1, world.here), world.here, Recording(changes))
    if not ended.is_well:
        raise SystemExit(f"{stage.name} fails undisturbed:\n{ended.said}")
    stage.seconds, stage.changes = ended.seconds, changes.read_text().splitlines()
    if never := [name for name in stage.written if not any(name in path for path in stage.changes)]:
        raise SystemExit(
            f"{stage.name} writes no file by the name of {', '.join(never)}: nothing could be killed while it does"
        )
    world.keep(stage.name)


def killed(world: World, stage: Stage, name: str | None, draw: random.Random) -> tuple[str, Ended]:
    """Kill the stage while a file by such a name is written, or at any time; where, and how it ended."""
    while True:
        world.restore(stage.before)
        nth = draw.randint(1, sum((name or "") in path for path in stage.changes))
        delay = draw.uniform(0.0, MOST_DELAY_S) if name is None else draw.choice([0.0, draw.uniform(0.0, 0.005)])
        rank = draw.randrange(stage.command.world)
        ended = run(stage.attempt(1, world.here), world.here, WhileWriting(name or "", nth, delay, rank))
        if not ended.is_well:  # else it ended before its kill came
            return f"{1000 * delay:.1f} ms after change {nth} of {name or 'any file'!r}, rank {rank}", ended


def kill(world: World, stage: Stage, name: str | None, draw: random.Random, traces: str, overrides: list[str]) -> dict:
    """Kill the stage once, run it again, and compare."""
    at, first = killed(world, stage, name, draw)
    broken = corrupt(world.here)
    again = run(stage.attempt(2, world.here), world.here)
    if not again.is_well:
        print(again.said)
    broken += corrupt(world.here)
    return {
        "stage": stage.name,
        "at": at,
        "corrupt": broken,
        "differs": differing(world, stage, traces, overrides) if again.is_well else ["the command failed"],
        "left": [name for name in files_in(world.here) if is_unfinished(name)],
        "lost_s": round(first.seconds + again.seconds - stage.seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="*", help="of prepare, 'prepare on two ranks', train, evaluate, export; all")
    parser.add_argument("overrides", nargs="*", help="of prepare and train")
    arguments = parser.parse_args()
    quiet_libraries()
    draw, console = random.Random(arguments.seed), Console()
    found = stages(arguments.overrides)
    asked = arguments.stages or list(found)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for stage in found.values():
            undisturbed(world, stage)
            console.print(
                f"{stage.name}: {stage.seconds:.1f} s of CPU, {len(stage.changes)} changes of files, undisturbed"
            )
        world.restore("prepare")
        traces = said_by_sources(world, arguments.overrides)
        kinds = [(stage, name) for stage in found.values() if stage.name in asked for name in (None, *stage.written)]
        kills = []
        for n in range(arguments.kills):
            stage, name = kinds[n % len(kinds)]
            kills.append(kill(world, stage, name, draw, traces, arguments.overrides))
            console.print_json(data=kills[-1])
    figures = {
        "kills": len(kills),
        "identical": sum(not one["differs"] for one in kills),
        "corrupt_files": sum(len(one["corrupt"]) for one in kills),
        "lost_work_max_s": round(max(one["lost_s"] for one in kills), 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
