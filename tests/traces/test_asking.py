"""A source on a server says what it says here: real HTTP on this machine, against `reading.trace_documents` of the same model."""

import re
import time
from collections.abc import Iterator, Set
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import tiny_llm
from server_for_tests import TinyServer, serving
from texts_for_tests import TEXTS, documents_of
from tokenizers import Tokenizer, decoders, models
from tokenizers_for_tests import llama
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from knowfuse.surface import Surface
from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.text.corpus import Document
from knowfuse.traces import asking, server
from knowfuse.traces.asking import nats_served, trace_served
from knowfuse.traces.reading import trace_documents
from knowfuse.traces.served import ServedLLM, connect
from knowfuse.types import EMPTY, LLMSpec, SourceTrace

DOCUMENTS = documents_of([*TEXTS, *(f"Document number {n}, with a text of its own." for n in range(6))])
TOP_K = 6
# JSON holds a float32 whole; the same model read one document at a time, not in padded batches.
CLOSE: dict[str, Any] = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_WAIT_S", 0.002)
    monkeypatch.setattr(server, "LONGEST_WAIT_S", 0.01)


@pytest.fixture(scope="module")
def llm() -> PreTrainedModel:
    return tiny_llm("llama", len(llama()) + 9, seed=3)  # nine rows that no token stands for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, llm: PreTrainedModel) -> Path:
    """Of the tokenizer and the configuration; no weights are anywhere."""
    folder = tmp_path_factory.mktemp("tokenizer")
    llama().save_pretrained(folder)
    llm.config.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(llm: PreTrainedModel) -> Iterator[TinyServer]:
    with serving(llm) as tiny:
        yield tiny


def connected(tiny: TinyServer, folder: Path, requests: int = 4, **spec: Any) -> ServedLLM:
    return connect("far", LLMSpec(path=str(folder), server=tiny.address, **spec), folder / "cache", requests)


def read(its: Surface) -> TokenizedDocuments:
    return tokenize_documents(its, DOCUMENTS, max_tokens=500)


def traced(llm: ServedLLM, top_k: int = TOP_K) -> dict[str, SourceTrace]:
    its = llm.surface()
    return {name: trace for some in trace_served(llm, its, read(its), top_k) for name, trace in some.items()}


def read_until_it_fails(llm: ServedLLM, message: str) -> tuple[dict[str, SourceTrace], str]:
    """What was handed on before, and all of the error."""
    its, got = llm.surface(), {}

    def read_all() -> None:
        for some in trace_served(llm, its, read(its), TOP_K):
            got.update(some)

    with pytest.raises(ValueError, match=message) as error:
        read_all()
    return got, str(error.value)


def require_equal(
    traces: dict[str, SourceTrace],
    llm: PreTrainedModel,
    its: Surface,
    names: Set[str] = frozenset(d.id for d in DOCUMENTS),
) -> None:
    """All rows, those of a BOS and the last ones too."""
    assert traces.keys() == names
    here = {n: t for some in trace_documents(llm, its, read(its), TOP_K, 600) for n, t in some.items()}
    for name, trace in traces.items():
        want = here[name]
        np.testing.assert_array_equal(trace.input_ids, want.input_ids)
        np.testing.assert_array_equal(trace.ends, want.ends)
        np.testing.assert_array_equal(trace.topk.ids, want.topk.ids)
        np.testing.assert_allclose(trace.topk.log_probs, want.topk.log_probs, **CLOSE)
        np.testing.assert_allclose(trace.nll, want.nll, **CLOSE)
        assert trace.nll[-1] == 0
        assert trace.nll.dtype == trace.topk.log_probs.dtype == np.float32


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_served_source_says_what_it_says_here(kind: str, llm: PreTrainedModel, folder: Path) -> None:
    counts: list[int] = []
    with serving(llm, kind=kind) as tiny:
        far = connected(tiny, folder)
        its = far.surface()
        said = list(trace_served(far, its, read(its), TOP_K, counts.append))
    require_equal({n: t for some in said for n, t in some.items()}, llm, its)
    assert sum(counts) == sum(read(its).lengths.values())


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_nats_alone(kind: str, llm: PreTrainedModel, folder: Path) -> None:
    with serving(llm, kind=kind, max_logprobs=0) as tiny:
        far = connected(tiny, folder)
        its = far.surface()
        nats = dict(nats_served(far, read(its)))
    for some in trace_documents(llm, its, read(its), 1, 600):
        for name, want in some.items():
            np.testing.assert_allclose(nats.pop(name), want.nll, **CLOSE)
    assert not nats


def test_rows_of_the_head_that_no_token_stands_for(folder: Path) -> None:
    """They are loud, and take slots of the server's answer: as much more is asked as it takes, and the tail keeps their mass."""
    loud = tiny_llm("llama", len(llama()) + 9, seed=3)
    with torch.no_grad():
        loud.get_output_embeddings().weight[-9:] *= 20  # type: ignore[operator, union-attr]
    with serving(loud) as tiny:
        far = connected(tiny, folder)
        require_equal(traced(far), loud, far.surface())
        assert len(tiny.asked) > 3 + len(DOCUMENTS), "some were asked again"
        tiny.max_logprobs = TOP_K
        message = (
            rf"document [0-9a-f]{{24}}: (\d+) log-probabilities a token .* max allowed: {TOP_K}.*--max-logprobs \1, or"
        )
        with pytest.raises(ValueError, match=message):
            traced(far)


def test_ids_without_an_entry_in_the_tokenizer(tmp_path: Path) -> None:
    """K is all of a head's six rows, two of which stand for no token: two slots stay empty, as they do here."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 2, "c": 4, "<eos>": 5}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(tmp_path)
    llm = tiny_llm("llama", 6)
    llm.config.save_pretrained(tmp_path)
    with serving(llm) as tiny:
        far = connected(tiny, tmp_path)
        its = far.surface()
        documents = tokenize_documents(its, [Document("abcab", "code", "fusion")], 100)
        (trace,) = next(trace_served(far, its, documents, 6)).values()
    (want,) = next(trace_documents(llm, its, documents, 6, 100)).values()
    np.testing.assert_array_equal(trace.topk.log_probs > EMPTY, want.topk.log_probs > EMPTY)
    np.testing.assert_allclose(trace.topk.log_probs[:, :4], want.topk.log_probs[:, :4], **CLOSE)
    np.testing.assert_array_equal(trace.topk.ids[:, :4], want.topk.ids[:, :4])


def test_requests_at_a_time_on_connections_that_stay_open(tiny: TinyServer, folder: Path) -> None:
    """Five at once, never more, and no more connections than those and the one that looks."""
    tiny.instead = lambda path, body: time.sleep(0.01)
    far = connected(tiny, folder, requests=5)
    tiny.connections.clear()
    assert len(traced(far)) == len(DOCUMENTS)
    assert tiny.at_once == 5
    assert len(tiny.connections) <= 6


def fails(number: int, status: int, said: Any = b"") -> Any:
    """The first so many questions about text go wrong, those that ask before any text excepted."""
    asked = count()  # one question has one number, whatever thread asks

    def instead(path: str, body: Any) -> Any:
        return (status, said) if body is not None and 1 <= next(asked) <= number else None

    return instead


@pytest.mark.parametrize("status", [0, 408, 429, 500, 503])
def test_what_passes_is_asked_again(status: int, tiny: TinyServer, llm: PreTrainedModel, folder: Path) -> None:
    """Status 0: the connection breaks. The server is looked at before each such try."""
    far = connected(tiny, folder)
    traced(far)
    looks, questions = (tiny.asked.count(path) for path in ("/v1/models", "/v1/completions"))
    tiny.asked.clear()
    tiny.instead = fails(8, status)
    require_equal(traced(far), llm, far.surface())
    assert tiny.asked.count("/v1/completions") == questions + 8
    assert tiny.asked.count("/v1/models") == looks - 1 + 8  # one was of connecting


def test_a_server_that_stays_silent_is_given_up(tiny: TinyServer, folder: Path) -> None:
    tiny.instead = fails(10**6, 503, b'{"error": {"message": "EngineDeadError"}}')
    with pytest.raises(ConnectionError, match=r"'far': its server did not answer in 10 tries, the last: ") as error:
        traced(connected(tiny, folder))
    assert "/v1/completions: status 503, 'EngineDeadError'. What it said before is kept: see to it" in str(error.value)
    assert str(error.value).endswith("run the same command again, which goes on from there")


def test_waits_grow_and_a_server_that_asks_for_peace_gets_it() -> None:
    """Without the short waits of these tests: seconds after the first to the last try, and what `Retry-After` says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "FIRST_WAIT_S", 0.5)
        patch.setattr(server, "LONGEST_WAIT_S", 60.0)
        for number, most in enumerate([0.5, 1, 2, 4, 8, 16, 32, 60, 60], start=1):
            waits = [server._wait_s(number) for _ in range(50)]
            assert most / 2 <= min(waits) < max(waits) <= most
        assert [server._seconds(stated) for stated in (None, "7", "900", "Wed, 21 Oct 2026")] == [0.0, 7.0, 60.0, 0.0]


def other_model(tiny: TinyServer, after: int, also_status: int | None = None) -> Any:
    """After so many questions about text the server is started again with another model; its first answer may be an error."""
    asked = count(1)

    def instead(path: str, body: Any) -> Any:
        if body is not None and next(asked) == after:
            tiny.root = "/models/other"
            tiny.model = tiny_llm("llama", len(llama()) + 9, seed=8)
            return None if also_status is None else (also_status, {"error": {"message": "starting"}})
        return None

    return instead


@pytest.mark.parametrize("status", [None, 503, 404])
def test_another_model_in_the_middle_is_noticed(
    status: int | None, tiny: TinyServer, llm: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a request fails, at once; else at the next look. Nothing is handed on that the other model said."""
    monkeypatch.setattr(asking, "LOOK_EVERY_S", 0.0)
    far = connected(tiny, folder, requests=1)
    tiny.instead = other_model(tiny, after=9, also_status=status)
    message = (
        "another LLM than when the reading began: 'tiny' from '/models/other', 512 tokens, vllm, it was 'tiny' from "
    )
    got, error = read_until_it_fails(far, message + "'/models/tiny', 512 tokens, vllm")
    assert error.endswith(
        "What it said before is kept: start it as it was, and run the same command again; or run it with the server as it "
        "is now, and everything is read anew, beside the old traces"
    )
    assert 0 < len(got) < len(DOCUMENTS)
    require_equal(got, llm, far.surface(), names=got.keys())


def test_what_was_said_is_handed_on_before_the_error(
    tiny: TinyServer, llm: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LOOK_EVERY_S", 0.0)
    far = connected(tiny, folder, requests=3)
    tiny.instead = fails_at(9)
    message = "'far', document [0-9a-f]{24}: .*answered '<html>', which is not JSON: set server to the address of vLLM"
    got, _ = read_until_it_fails(far, message)
    assert 0 < len(got) < len(DOCUMENTS)
    require_equal(got, llm, far.surface(), names=got.keys())


def fails_at(number: int) -> Any:
    """That question about text, and none before it, is answered with a page."""
    asked = count(1)
    return lambda path, body: (200, b"<html>") if body is not None and next(asked) >= number else None


def test_more_than_the_server_gives_is_refused_before_reading(tiny: TinyServer, folder: Path) -> None:
    far = connected(tiny, folder)
    tiny.asked.clear()
    with pytest.raises(
        ValueError, match=r"21 log-probabilities a token are more .* start it with --max-logprobs 21, or"
    ):
        traced(far, top_k=21)
    assert tiny.asked.count("/v1/completions") == 1


def test_fewer_than_asked_is_refused_before_reading(tiny: TinyServer, folder: Path) -> None:
    far = connected(tiny, folder)

    def fewer(path: str, body: Any) -> Any:
        return None if body is None else tiny._vllm({**body, "prompt_logprobs": 3})

    tiny.asked.clear()
    tiny.instead = fewer
    with pytest.raises(
        ValueError, match=r"'far', document .*: it returned [34] log-probabilities .* where 6 were asked for"
    ):
        traced(far)
    assert tiny.asked.count("/v1/completions") == 1


def test_other_tokens_are_refused(tiny: TinyServer, folder: Path) -> None:
    """As a server would that put its own BOS before a prompt."""
    far = connected(tiny, folder)
    tiny.instead = lambda path, body: body and tiny._vllm({**body, "prompt": [1, *body["prompt"]]})
    with pytest.raises(ValueError, match=r"it answered for 3 tokens in 3 rows where 2 tokens were sent"):
        traced(far)


def test_a_tokenizer_of_another_vocabulary(tiny: TinyServer, folder: Path) -> None:
    """The largest id that occurs is asked about before any text."""
    far = connected(tiny, folder)
    tiny.model = tiny_llm("llama", 300)
    tiny.asked.clear()
    with pytest.raises(
        ValueError, match=r"its tokenizer gives token ids that the LLM on its server has not .*out of voc"
    ):
        traced(far)
    assert tiny.asked.count("/v1/completions") == 1


@pytest.mark.parametrize("value", [float("nan"), -9999.0])
def test_nats_that_are_not_finite_name_the_document(value: float, tiny: TinyServer, folder: Path) -> None:
    def broken(path: str, body: Any) -> Any:
        if body is None or len(body["prompt"]) < 3:
            return None
        status, said = tiny._vllm(body)
        said["choices"][0]["prompt_logprobs"][1][str(body["prompt"][1])] = {"logprob": value}
        return status, said

    far = connected(tiny, folder)
    tiny.instead = broken
    with pytest.raises(
        ValueError, match=r"'far' returned NaN or infinite log-probabilities on document [0-9a-f]{24}: ch"
    ):
        traced(far)


def test_more_kept_tokens_than_the_vocabulary_has(tiny: TinyServer, folder: Path) -> None:
    far = connected(tiny, folder)
    size = far.surface().vocabulary_size
    with pytest.raises(
        ValueError,
        match=rf"top_k is {size + 1}, but source 'far' can name {size} tokens .*: set top_k to at most {size}",
    ):
        traced(far, top_k=size + 1)


def test_nothing_to_read_asks_nothing(tiny: TinyServer, folder: Path) -> None:
    far = connected(tiny, folder)
    tiny.asked.clear()
    its = far.surface()
    assert list(trace_served(far, its, tokenize_documents(its, [], 100), TOP_K)) == []
    assert not tiny.asked


def test_waiting_ends_when_nobody_waits_for_it(tiny: TinyServer, folder: Path) -> None:
    """A reader that goes away ends the waits of all others, however long they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "FIRST_WAIT_S", 30.0)
        patch.setattr(server, "LONGEST_WAIT_S", 30.0)
        far = connected(tiny, folder, requests=3)
        its, wrong = far.surface(), Event()

        def instead(path: str, body: Any) -> Any:
            if body is None or len(body["prompt"]) == 2:
                return None
            if len(body["prompt"]) > 50:  # the longest is asked first
                wrong.wait(5)
                return 200, b"no JSON"
            wrong.set()
            return 503, {}

        tiny.instead = instead
        began = time.monotonic()
        with pytest.raises(ValueError, match="which is not JSON"):
            list(trace_served(far, its, read(its), TOP_K))
        assert time.monotonic() - began < 5


def test_a_key_goes_to_the_server_and_nowhere_else(
    llm: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "sk-of-nobody-0123"
    monkeypatch.setenv("MY_SERVER_KEY", secret)
    with serving(llm, key=secret) as tiny:
        far = connected(tiny, folder, server_key="MY_SERVER_KEY")
        assert len(traced(far)) == len(DOCUMENTS)
        assert tiny.keys == {f"Bearer {secret}"}
        unkeyed = replace(far, spec=replace(far.spec, server_key=None))
        with pytest.raises(
            ValueError, match=r"refused a request without a key \(status 401, 'Unauthorized'\): set its server_key"
        ):
            traced(unkeyed)
        monkeypatch.setenv("MY_SERVER_KEY", "another-secret")
        with pytest.raises(
            ValueError, match=r"refused the key in MY_SERVER_KEY \(status 401, 'Unauthorized'\)"
        ) as error:
            traced(far)
        assert "another-secret" not in str(error.value)
    kept = [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert not kept
    assert secret not in capsys.readouterr().out
    for key in ("", "with\nnewline", "caf\u00e9"):
        monkeypatch.setenv("MY_SERVER_KEY", key)
        with pytest.raises(ValueError, match=r"'far'.* MY_SERVER_KEY") as error:
            traced(far)
        assert not key or key not in re.sub("MY_SERVER_KEY", "", str(error.value))
