"""What do rounds of its own text give a target, is any text read twice by a source, and does a kill change anything?

    python benchmarks/rounds.py
    python benchmarks/rounds.py --rounds 3 own.lm_weight=0 writing.n=2

The quickstart in rounds: by the command, which is killed in the middle of the target's writing, and in the middle of the second round's
fit, and started again; and on the given text alone, for as many steps. What was killed is then done once more without a kill. Prints
JSON: `source_tokens_read_twice`, over all that was read; `killed_and_resumed_identical`, of what was written, byte by byte, and of all
figures of the second round; and bits per byte by round, on validation and test, beside those on the given text alone. What follows
the options are settings of `knowfuse.rounds`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open

from knowfuse.ids import hex_names
from knowfuse.rollouts import Asked, Sampling, rollouts_of
from knowfuse.rollouts.writing import DOCUMENTS
from knowfuse.rounds import Writing, round_sampling, rounds
from knowfuse.runs.trained import trained_of
from knowfuse.study import Line, Point, Runs, read_lines
from knowfuse.traces.index import from_bytes

ROOT = Path(__file__).resolve().parent.parent
LOOK_S = 0.05


def stand(folder: Path) -> Path:
    """Where a user stands: our programs and settings."""
    shutil.copytree(ROOT / "conf", folder / "conf", dirs_exist_ok=True)
    shutil.copy(ROOT / "train.py", folder)
    return folder


def killed(folder: Path, cache: Path, words: list[str], whens: list[Callable[[], bool]]) -> list[Line]:
    """The lines of the command, which was killed each time that one of these was so, and started again."""
    environment = {**os.environ, "KNOWFUSE_CACHE": str(cache)}
    for when in [*whens, None]:
        process = subprocess.Popen(
            [sys.executable, "-m", "knowfuse.rounds", *words],
            cwd=folder,
            env=environment,
            start_new_session=True,
            stdout=sys.stderr,
        )
        while process.poll() is None and (when is None or not when()):
            time.sleep(LOOK_S)
        if when is not None:
            if process.poll() is not None:
                raise RuntimeError(f"the command had ended ({process.returncode}) before it could be killed")
            os.killpg(process.pid, signal.SIGKILL)
            print("killed", file=sys.stderr)
        if process.wait() and when is None:
            raise RuntimeError(f"the command ended with exit status {process.returncode}")
    newest = max(folder.glob("outputs/rounds/*/rounds.csv"), key=lambda path: path.stat().st_mtime)
    return read_lines(newest)[1]


def read_twice(cache: Path) -> tuple[int, int]:
    """Tokens that the sources have read, and those of documents that they had read before."""
    tokens = twice = 0
    for store in (cache / "traces").glob("*/"):
        seen: set[str] = set()
        for index in sorted(store.glob("*.index")):
            shard = from_bytes(index.read_bytes())
            offsets = safe_open(store / shard.file, framework="numpy").get_tensor("offsets")
            sizes = offsets[1:] - offsets[:-1]
            for name, size in zip(hex_names(shard.ids), sizes.tolist(), strict=True):
                tokens, twice = tokens + size, twice + size * (name in seen)
                seen.add(name)
    return tokens, twice


def same_again(runs: Runs, point: Point, writing: Writing, work: Path) -> bool:
    """Whether the first round's target writes the same, and the second round learns the same, where nobody kills them."""
    first, second = (run for run, _ in rounds(runs, point, 2, writing))
    trained = trained_of(first.folder, "fused")
    kept = rollouts_of(trained, round_sampling(writing, 1), writing.asked).folder
    fresh = rollouts_of(trained, round_sampling(writing, 1), writing.asked, work / "fresh").folder
    whole = replace(runs, folder=Path("outputs/whole")).run(second.point, second.seed)
    is_same = whole.fits["fused"].history == second.fits["fused"].history
    is_same &= whole.results["rows"] == second.results["rows"]
    return is_same and fresh != kept and (fresh / DOCUMENTS).read_bytes() == (kept / DOCUMENTS).read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="of all that is made, and kept; none: a temporary one")
    parser.add_argument("settings", nargs="*", help="of train.py, own.* and writing.* of knowfuse.rounds")
    asked = parser.parse_args()
    said = Point.of([word.removeprefix("writing.") for word in asked.settings if word.startswith("writing.")]).settings
    prompts = {key: value for key, value in said.items() if key in Asked.__dataclass_fields__}
    sampling = {key: value for key, value in said.items() if key not in prompts}
    writing = Writing(Sampling(**sampling), Asked(**prompts))
    point = Point.of(["experiment=rounds", *(word for word in asked.settings if not word.startswith("writing."))])
    with tempfile.TemporaryDirectory() as temporary:
        work = (asked.folder or Path(temporary)).resolve()
        user, cache = stand(work / "user"), work / "cache"
        words = [f"rounds={asked.rounds}", *asked.settings]
        lines = killed(
            user,
            cache,
            words,
            [
                lambda: len(list(cache.glob("rollouts/*/parts/*.jsonl"))) >= 2,
                lambda: len(list(user.glob("outputs/studies/run-*/fits/*/last.ckpt"))) >= 2,
            ],
        )
        runs = Runs(root=user, cache=cache)
        alone = [line for _, line in rounds(runs, point, asked.rounds, None)]
        tokens, twice = read_twice(cache)
        found = {
            "source_tokens_read": tokens,
            "source_tokens_read_twice": twice,
            "killed_and_resumed_identical": same_again(runs, point, writing, work),
            "own_share": [round(float(line["own"] or 0), 4) for line in lines],
        }
        for key, name in (("validation", "validation"), ("mean", "test")):
            found[name] = [round(float(line[key] or 0), 4) for line in lines]
            found[f"{name}_given_only"] = [round(float(line[key] or 0), 4) for line in alone]
        print(json.dumps(found))


if __name__ == "__main__":
    main()
