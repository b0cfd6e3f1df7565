"""Real vLLM on this machine's CPU, with a tiny Llama of random weights and a real tokenizer, against local reading.

It is in an environment of its own, whose Python `KNOWFUSE_VLLM` names (requirements-vllm.txt says how to make it). Without it
these tests are left out, with that reason; in CI they must not be. A server takes 30 s to start, and two are started. What they
have is the target of a run, which also writes through them.
"""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands_for_tests import ROOT, free_port, run_python
from experiments_for_tests import TRACING, documents, local_llm
from models_for_tests import tiny_llm
from tokenizers_for_tests import llama

from knowfuse.llms.local import LocalLLM
from knowfuse.rollouts import Sampling, saved_target
from knowfuse.rollouts.going_on import elsewhere, sayable
from knowfuse.rollouts.prompts import prompts_of
from knowfuse.runs.prepared import Prepared, prepare
from knowfuse.runs.trained import trained_of
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.text.corpus import Corpus, Document
from knowfuse.text.documents import Documents
from knowfuse.traces import server
from knowfuse.traces.asking import trace_served
from knowfuse.traces.reading import trace_documents
from knowfuse.traces.served import ServedLLM, connect
from knowfuse.types import LLMSpec

PYTHON = os.environ.get("KNOWFUSE_VLLM")
WHY = "KNOWFUSE_VLLM is not set to the Python of an environment with vLLM: requirements-vllm.txt says how to make one"
STARTS_S, ANSWERS_S = 300.0, 30.0
MAX_MODEL_LEN, MAX_LOGPROBS, TOP_K = 100, 20, 5
LONG = Document("word after word " * 60, "code", "fusion")
TEXTS = documents(200)
CORPUS = Corpus.of("tiny", [*TEXTS, LONG, *documents(6, "validation")])

pytestmark = [pytest.mark.long, pytest.mark.skipif(PYTHON is None and os.environ.get("CI") != "true", reason=WHY)]


@contextmanager
def started(folder: Path, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`vllm serve` of a folder; whatever it started is gone when the block ends."""
    assert PYTHON is not None, WHY
    command = [
        PYTHON,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(folder),
        "--served-model-name",
        "tiny",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--api-key", "of-the-tests"]
    command += ["--max-model-len", str(MAX_MODEL_LEN), "--max-logprobs", str(MAX_LOGPROBS)]
    command += ["--enforce-eager", "--max-num-seqs", "8"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": str(log.parent / "vllm")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        _wait_until_healthy(port, process, log)
        yield process
    finally:
        kill(process)


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"vLLM did not start in {STARTS_S:.0f} s:\n{log.read_text(errors='replace')[-3000:]}")


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of the server, its engine and its workers, which share its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(ANSWERS_S)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step of fusing an LLM from itself: heads of 32, the least that vLLM's attention on a CPU knows; nine rows of the head
    stand for no token."""
    place = tmp_path_factory.mktemp("user")
    local_llm(place / "llm", "llama", width=128)
    tiny_llm("llama", len(llama()) + 9, width=128).save_pretrained(place / "llm")
    (place / "mine.jsonl").write_text("".join(json.dumps({"text": d.text}) + "\n" for d in documents(80)))
    llm = f"{{_target_: knowfuse.types.LLMSpec, path: {place / 'llm'}}}"
    for group, settings in (("sources", f"mine: {llm}\n"), ("target", f"# @package _global_\ntarget: {llm}\n")):
        (place / "conf" / group).mkdir(parents=True)
        (place / "conf" / group / "mine.yaml").write_text(settings)
    small = [
        "block_tokens=128",
        "batch_blocks=2",
        "top_k=8",
        "trainer.max_steps=1",
        "trainer.val_check_interval=1",
        "samples=0",
    ]
    text = [
        "data=text_files",
        f"corpus.files={{mine: [{place / 'mine.jsonl'}]}}",
        "corpus.validation_share=0.2",
        "corpus.test_share=0.2",
    ]
    mine = [
        f"hydra.searchpath=[file://{place / 'conf'}]",
        "sources=mine",
        "target=mine",
        "compare_with_clm=false",
        "num_workers=0",
    ]
    run_python(
        str(ROOT / "train.py"), *mine, *text, *small, f"hydra.run.dir={place / 'run'}", cache=place / "cache", cwd=place
    )
    return place / "run"


@pytest.fixture(scope="module")
def near(run: Path) -> LocalLLM:
    return saved_target(trained_of(run, "fused"))


@pytest.fixture(scope="module")
def running(near: LocalLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    with started(near.folder, port, tmp_path_factory.mktemp("server") / "log") as process:
        yield f"http://127.0.0.1:{port}/v1", process


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOWFUSE_TEST_KEY", "of-the-tests")


def far_from(near: LocalLLM, address: str, cache: Path, **spec: Any) -> ServedLLM:
    return connect("far", spec_of(near, address, **spec), cache, 8)


def spec_of(near: LocalLLM, address: str, **spec: Any) -> LLMSpec:
    return LLMSpec(**{"path": near.spec.path, "server": address, "server_key": "KNOWFUSE_TEST_KEY", **spec})


def make(near: LocalLLM, address: str, cache: Path, top_k: int = TOP_K, **tracing: Any) -> Prepared:
    sources = {"far": spec_of(near, address)}
    return prepare(CORPUS, near.spec, sources, top_k, cache, replace(TRACING, server_requests=8, **tracing))


def test_what_it_says_it_serves(near: LocalLLM, running: Any, tmp_path: Path) -> None:
    its = far_from(near, running[0], tmp_path).served
    assert (its.kind, its.model, its.root, its.max_model_len) == ("vllm", "tiny", near.spec.path, MAX_MODEL_LEN)


def test_traces_are_those_of_local_reading(near: LocalLLM, running: Any, tmp_path: Path) -> None:
    """Every row, the BOS's and the last; float32 in two implementations, on logits of a few nats: 1e-4. Ids where no two
    neighbours are that close."""
    far = far_from(near, running[0], tmp_path)
    its = far.surface()
    some = tokenize_documents(its, TEXTS[:60], far.context_length())
    said = {n: t for batch in trace_served(far, its, some, TOP_K) for n, t in batch.items()}
    here = {n: t for batch in trace_documents(near.load(), its, some, TOP_K, 600) for n, t in batch.items()}
    assert said.keys() == here.keys() == set(some)
    for name, want in here.items():
        trace = said[name]
        np.testing.assert_array_equal(trace.input_ids, want.input_ids)
        np.testing.assert_array_equal(trace.ends, want.ends)
        np.testing.assert_allclose(trace.topk.log_probs, want.topk.log_probs, rtol=0.0, atol=1e-4)
        np.testing.assert_allclose(trace.nll, want.nll, rtol=0.0, atol=1e-4)
        gaps = -np.diff(want.topk.log_probs, axis=-1, append=-np.inf)
        is_clear = (gaps > 1e-3) & (np.roll(gaps, 1, axis=-1) > 1e-3)
        is_clear[:, -1] = False  # what comes after the last is not in the trace
        assert is_clear.mean() > 0.5
        np.testing.assert_array_equal(trace.topk.ids[is_clear], want.topk.ids[is_clear])


def test_longer_than_the_server_holds_and_scores(
    near: LocalLLM, running: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = make(near, running[0], tmp_path)
    assert set(prepared.sources["far"].store.set_aside) == {LONG.id}
    assert f"tokens, 'far' can hold {MAX_MODEL_LEN - 1}" in " ".join(capsys.readouterr().out.split())
    here = prepare(CORPUS, near.spec, {"near": near.spec}, TOP_K, tmp_path, TRACING)
    scores, want = (p.source_scores(CORPUS.split("validation"))[n] for p, n in ((prepared, "far"), (here, "near")))
    assert scores.nats == pytest.approx(want.nats, rel=1e-5)
    assert scores.eos_nats == pytest.approx(want.eos_nats, rel=1e-4)


def test_more_than_max_logprobs_is_refused(near: LocalLLM, running: Any, tmp_path: Path) -> None:
    message = (
        rf"source 'far', document [0-9a-f]{{24}}: {MAX_LOGPROBS + 1} log-probabilities a token are more than its server gives "
        rf"\(status 400, 'Requested .* is greater than max allowed: {MAX_LOGPROBS} .*\): start it with --max-logprobs "
        rf"{MAX_LOGPROBS + 1}, or set top_k lower"
    )
    with pytest.raises(ValueError, match=message):
        make(near, running[0], tmp_path, top_k=MAX_LOGPROBS + 1)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_key_that_is_not_its_key(
    near: LocalLLM, running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNOWFUSE_TEST_KEY", "another")
    with pytest.raises(ValueError, match=r"refused the key in KNOWFUSE_TEST_KEY \(status 401, 'Unauthorized'\)"):
        far_from(near, running[0], tmp_path)


def test_a_name_that_it_does_not_have(near: LocalLLM, running: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no 'other'; it has \['tiny'\]: set served_model to one of these"):
        far_from(near, running[0], tmp_path, served_model="other")


def test_it_says_what_is_likely_of_what_may_be_said(near: LocalLLM, running: Any, tmp_path: Path) -> None:
    """At a temperature of 0.01 no token is drawn that is more than 0.3 below the best logit: it has e^-30 of its chance. The best
    of those that may be said, which special tokens and rows without one may not be."""
    far, sampling = far_from(near, running[0], tmp_path), Sampling(temperature=0.01, prompt_tokens=5, new_tokens=8)
    its, model = far.surface(), near.load()
    prompts = prompts_of(Documents.of(TEXTS[:20]), its, sampling.prompt_tokens, far.context_length())
    with elsewhere(far, its, sampling) as go_on:
        said = go_on([(prompt, 0) for prompt in prompts])
    may = torch.tensor(sayable(its))
    for prompt, ids in zip(prompts, said, strict=True):
        assert len(ids) == sampling.new_tokens or ids[-1] == its.eos_id
        whole = torch.tensor([*prompt.input_ids, *ids])
        with torch.inference_mode():
            logits = model(whole[None]).logits[0].masked_fill(~may, -torch.inf)[len(prompt.input_ids) - 1 : -1]
        assert (logits.amax(1) - logits.gather(1, torch.tensor(ids)[:, None])[:, 0]).max() < 0.3


def test_the_target_of_a_run_writes_through_it(run: Path, running: Any) -> None:
    """By the command, which has nothing to take on trust: the server has the folder that it names."""
    cache = run.parent / "cache"
    asked = [
        f"run={run}",
        f"server={running[0]}",
        "server_key=KNOWFUSE_TEST_KEY",
        "prompt_tokens=5",
        "new_tokens=8",
        "n=3",
    ]
    told = " ".join(run_python("-m", "knowfuse.rollouts", *asked, "most_prompts=8", cache=cache).split())
    assert "WARNING" not in told
    (folder,) = (cache / "rollouts").glob("*/")
    assert f"documents of 8 prompts in {folder}" in told
    texts = [json.loads(line)["text"] for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert 12 < len(texts) <= 24
    assert len(set(texts)) > 8, "each by its own chance, not that of its prompt"


def test_killed_in_the_middle_and_started_again(
    near: LocalLLM, running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 once the first shard is there: what was said stays, and only the rest is asked of the next server. Last of
    these tests, since the others' server is gone."""
    monkeypatch.setattr(server, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(server, "LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr("knowfuse.traces.asking.LOOK_EVERY_S", 0.0)
    address, process = running

    ask, is_killed = server.Server.post, threading.Lock()

    def kill_first(self: server.Server, url: str, body: Any) -> Any:
        """A question that comes once a shard is there finds the server dead."""
        if list(tmp_path.rglob("*.safetensors")) and is_killed.acquire(blocking=False):
            kill(process)
        return ask(self, url, body)

    with monkeypatch.context() as asking:
        asking.setattr(server.Server, "post", kill_first)
        with pytest.raises(
            ConnectionError, match="What it said before is kept: see to it that the server runs, and run"
        ):
            make(near, address, tmp_path, shard_tokens=50)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert before
    port = free_port()
    with started(near.folder, port, tmp_path / "log"):
        store = make(near, f"http://127.0.0.1:{port}/v1", tmp_path).sources["far"].store
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert before.items() < after.items()
    store.require(Documents.of([*TEXTS, LONG]).ids)
    store.verify()
    here = prepare(CORPUS, near.spec, {"near": near.spec}, TOP_K, tmp_path, TRACING).sources["near"].store
    for document in TEXTS:
        its, want = store.read(document.id), here.read(document.id)
        np.testing.assert_allclose(its.nll, want.nll, rtol=1e-4, atol=1.1e-3)  # one step of the codec
