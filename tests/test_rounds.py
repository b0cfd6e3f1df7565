"""Rounds of a target's own text, whole and in miniature: stopped and gone on with, nothing read twice; rollouts from the command.

Three runs of `train.py` in processes of their own, 2 s each.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands_for_tests import ROOT, run_python
from experiments_for_tests import TINY_TRAINING, composed, forward_passes
from server_for_tests import Answer, serving
from transformers import GenerationConfig

from knowfuse.ids import hex_names
from knowfuse.rollouts import Asked, Sampling, rollouts_of, saved_target
from knowfuse.rollouts import __main__ as command
from knowfuse.rollouts.going_on import sayable
from knowfuse.rounds import Writing, rounds
from knowfuse.rounds.line import next_point
from knowfuse.runs.trained import trained_of
from knowfuse.study import Finished, Line, Point, Runs
from knowfuse.traces.index import from_bytes

SAMPLING = Sampling(n=1, temperature=0.7, prompt_tokens=6, new_tokens=8)
WRITING = Writing(SAMPLING, Asked(most_prompts=60))
SHORT = ["trainer.max_steps=2", "trainer.val_check_interval=2", "own.share=0.3", "own.lm_weight=0.0"]
POINT = Point.of(["experiment=rounds", *(o for o in TINY_TRAINING if not o.startswith("trainer.")), *SHORT])


class Started:
    """Runs whose programs are forked; it counts them."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.cache, self.programs = cache, list[str]()
        shutil.copytree(ROOT / "conf", folder / "conf")
        shutil.copy(ROOT / "train.py", folder)
        self.runs = Runs(root=folder, cache=cache, start=self._start)

    def _start(self, program: str, overrides: Sequence[str], root: Path) -> None:
        self.programs.append(program)
        run_python(program, *overrides, cache=self.cache, cwd=root)


@pytest.fixture(scope="module")
def started(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Started:
    """With a cache of its own, in which the sources have read nothing but the given text."""
    cache = tmp_path_factory.mktemp("cache") / "cache"
    shutil.copytree(tiny_cache, cache)
    return Started(tmp_path_factory.mktemp("user"), cache)


@pytest.fixture(scope="module")
def line(started: Started) -> list[tuple[Finished, Line]]:
    """Two rounds; the power is cut while the target writes."""
    with forward_passes(stop=12), pytest.raises(KeyboardInterrupt):
        list(rounds(started.runs, POINT, 2, replace(WRITING, asked=Asked(most_prompts=60, batch_documents=8))))
    assert list(started.cache.glob("rollouts/*/parts/*.jsonl"))
    done = list(rounds(started.runs, POINT, 2, WRITING))
    assert started.programs == ["train.py"] * 2, "a finished round is not run again"
    return done


def test_a_round_trains_on_where_the_last_one_ended_on_own_text_too(line: list[tuple[Finished, Line]]) -> None:
    (first, of_first), (second, of_second) = line
    assert (of_first["round"], of_first["own"], of_second["round"]) == (1, 0.0, 2)
    assert 0.1 < float(of_second["own"] or 0) < 0.5, "of the labels; 0.3 of the bytes"
    rows = first.results["rows"], second.results["rows"]
    assert rows[1]["target before"] == pytest.approx(rows[0]["target fused"], abs=1e-6)
    assert rows[0].keys() == rows[1].keys()
    assert {"validation", "mean", "code", "docs", "prose"} <= of_second.keys()
    page = (second.folder / "report.html").read_text()
    assert "own" in page


def test_the_next_round_begins_where_the_last_one_ended_however_the_target_was_set(tmp_path: Path) -> None:
    """Also where a file of `conf/target` was chosen, and something of it set beside."""
    typed = ["target=llama2_7b", "target.path=/mine", "++target.dtype=float32", "experiment=rounds", "own.share=0.3"]
    point = next_point(Point.of(typed), {"_target_": "knowfuse.types.LLMSpec", "path": "/written"})
    target = Runs(tmp_path, ROOT).composed(point, 0).target
    assert (target.path, target.get("dtype")) == ("/written", None)


def test_a_source_reads_each_document_once(line: list[tuple[Finished, Line]], started: Started) -> None:
    """And all that the target wrote and was trained on."""
    abouts = [json.loads(file.read_text()) for file in started.cache.glob("rollouts/*/about.json")]
    assert [about["run"] for about in abouts].count(str(line[0][0].folder)) == 1, (
        "others are of the cache it began with"
    )
    for store in started.cache.glob("traces/*/"):
        ids = [name for index in store.glob("*.index") for name in hex_names(from_bytes(index.read_bytes()).ids)]
        assert max(Counter(ids).values()) == 1
    with forward_passes() as passes:
        assert list(rounds(started.runs, POINT, 2, WRITING))[1][0].folder == line[1][0].folder
    assert not passes, "neither written nor read again"


def test_as_many_steps_on_the_given_text_share_the_first_round(
    line: list[tuple[Finished, Line]], started: Started
) -> None:
    alone = list(rounds(started.runs, POINT, 2, None))
    assert alone[0][0].folder == line[0][0].folder
    assert alone[1][0].folder != line[1][0].folder
    assert alone[1][1]["own"] == 0.0
    with pytest.raises(ValueError, match="rounds is 0: it must be a whole number above 0"):
        list(rounds(started.runs, POINT, 0, None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "run is not set: give it the folder of a finished run, such as run=outputs/<name>/<date_time>"),
        (["run={untrained}"], "untrained' is not the folder of a finished run, it has no results.json: give one of"),
        (
            ["run={run}", "method=clm"],
            "has no method 'clm': choose one of ['fused']",
        ),
        (
            ["run={run}", "temperature=0.0"],
            "temperature is 0.0: it divides logits, and must be above 0; 1 draws as the target",
        ),
        (["run={run}", "most_prompts=some"], "most_prompts is 'some': it must be a whole number or null"),
        (
            ["run={run}", "prompt_tokens=160"],
            "prompt_tokens is 160, and target 'target' can hold 160 tokens in all: set it",
        ),
        (["run={run}", "prompts={long}"], "1 of 1 prompts of '{long}' cannot be gone on with, the first is number 1: "),
        (["run={run}", "prompts={long}"], "tokens, 'target' can hold 159. Its context is of 160: cut them shorter"),
        (["run={run}", "batch_documents=0"], "batch_documents is 0: it must be at least 1"),
        (
            ["run={run}", "server=http://127.0.0.1:9/v1"],
            "no server answers at http://127.0.0.1:9/v1: start it with vllm",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(
    line: list[tuple[Finished, Line]], tmp_path: Path, settings: list[str], message: str
) -> None:
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained" / "config.yaml").write_text("name: mine\n")
    (tmp_path / "long.txt").write_text("word " * 200)
    names = {"run": line[0][0].folder, "untrained": tmp_path / "untrained", "long": tmp_path / "long.txt"}
    with pytest.raises((ValueError, ConnectionError), match=re.escape(message.format(**names))):
        command.main(composed("rollouts", *(setting.format(**names) for setting in settings)))


def test_a_served_target_writes_by_a_seed_of_each_document(line: list[tuple[Finished, Line]], tmp_path: Path) -> None:
    """A stand-in of vLLM that draws by the seed it is sent; what it is asked leaves it no habit of its own."""
    trained = trained_of(line[0][0].folder, "fused")
    target = saved_target(trained)
    surface, model = target.surface(), target.load()
    bodies = list[dict[str, Any]]()

    def instead(path: str, body: Any) -> Answer | None:
        if path != "/v1/completions":
            return None
        bodies.append(body)
        never = torch.tensor([int(i) for i in body["logit_bias"]])
        torch.manual_seed(body["seed"])
        how = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=body["max_tokens"], eos_token_id=surface.eos_id)
        how.suppress_tokens = never.tolist()
        ids = torch.tensor([body["prompt"]])
        said = model.generate(ids, generation_config=how)[0, ids.shape[1] :].tolist()  # pyright: ignore[reportCallIssue]
        ends = said[-1] == surface.eos_id
        return 200, {"choices": [{"token_ids": said, "finish_reason": "stop" if ends else "length"}]}

    asked = Asked(most_prompts=5, batch_documents=1)
    with serving(model, instead=instead, max_model_len=160, root=str(target.folder)) as tiny:
        asked = replace(asked, server=tiny.address)
        first = rollouts_of(trained, SAMPLING, asked, tmp_path)
        assert rollouts_of(trained, SAMPLING, asked, tmp_path).folder == first.folder
    assert rollouts_of(trained, SAMPLING, asked, tmp_path).about == first.about, (
        "all is written, so the server may be gone"
    )
    assert len(bodies) == 5 == len({body["seed"] for body in bodies})
    body = bodies[0]
    assert {key: body[key] for key in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")} == {
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    assert {int(i) for i in body["logit_bias"]} == {i for i, may in enumerate(sayable(surface)) if not may}
    assert rollouts_of(trained, SAMPLING, replace(asked, server=None), tmp_path).folder != first.folder, (
        "who drew is part of its name"
    )
