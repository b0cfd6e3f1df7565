"""Which LLM a server serves, under which key its traces are kept, and what is said of servers that cannot be used."""

import re
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from commands_for_tests import ended
from experiments_for_tests import TRACING, composed, documents, local_llm
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from models_for_tests import tiny_llm
from server_for_tests import TinyServer, serving
from tokenizers_for_tests import llama

from knowfuse.llms.local import LocalLLM
from knowfuse.runs.prepared import Prepared, prepare
from knowfuse.text.corpus import Corpus
from knowfuse.text.documents import Documents
from knowfuse.traces import server
from knowfuse.traces.served import connect
from knowfuse.types import LLMSpec

TEXTS = documents(24)
CORPUS = Corpus.of("tiny", [*TEXTS, *documents(6, "validation")])


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_WAIT_S", 0.002)
    monkeypatch.setattr(server, "LONGEST_WAIT_S", 0.01)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> LocalLLM:
    return local_llm(tmp_path_factory.mktemp("llms") / "near", "llama")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    llama().save_pretrained(folder)
    tiny_llm("llama", len(llama())).config.save_pretrained(folder)
    return folder


def spec_of(tiny: TinyServer, folder: Path, **more: Any) -> LLMSpec:
    return LLMSpec(path=str(folder), server=tiny.address, **more)


def make(target: LocalLLM, spec: LLMSpec, cache: Path, top_k: int = 5, **tracing: Any) -> Prepared:
    return prepare(CORPUS, target.spec, {"far": spec}, top_k, cache, replace(TRACING, **tracing))


def test_traces_and_scores_of_a_served_source(target: LocalLLM, folder: Path, tmp_path: Path) -> None:
    """Beside the same LLM here, by the same functions; the server may be gone once it has said all."""
    with serving(target.load()) as tiny:
        prepared = make(target, spec_of(tiny, folder), tmp_path)
        scores = prepared.source_scores(CORPUS.split("validation"))["far"]
        tiny.asked.clear()
        make(target, spec_of(tiny, folder), tmp_path).source_scores(CORPUS.split("validation"))
        assert tiny.asked == ["/v1/models"], "what was said is not asked again"
    here = prepare(CORPUS, target.spec, {"near": target.spec}, 5, tmp_path, TRACING)
    for document in TEXTS:
        far, near = (p.sources[n].store.read(document.id) for p, n in ((prepared, "far"), (here, "near")))
        assert far.input_ids.tolist() == near.input_ids.tolist()
        assert far.nll == pytest.approx(near.nll, rel=1e-4, abs=1.1e-3)  # one step of the codec
        assert far.topk.ids.tolist() == near.topk.ids.tolist()
    want = here.source_scores(CORPUS.split("validation"))["near"]
    assert scores.nats == pytest.approx(want.nats, rel=1e-5)
    assert scores.set_aside == want.set_aside


def test_a_server_that_is_gone_when_all_was_said(
    target: LocalLLM, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training and scoring go on without it, and it is said; what it has not said yet needs it, and that is said at once."""
    with serving(target.load()) as tiny:
        spec = spec_of(tiny, folder)
        make(target, spec, tmp_path).source_scores(CORPUS.split("validation"))
    capsys.readouterr()
    again = make(target, spec, tmp_path)
    again.sources["far"].store.require(Documents.of(TEXTS).ids)
    again.source_scores(CORPUS.split("validation"))
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"{tiny.address} does not answer; it is taken for what it was: 'tiny' from '/models/tiny', 512 tokens" in said
    )
    assert "traces far: read before" in said
    with pytest.raises(ConnectionError, match=r"no server answers at http://127\.0\.0\.1:\d+/v1 .*refused.*start it"):
        make(target, spec, tmp_path, top_k=6)


def test_a_server_that_never_answered(target: LocalLLM, folder: Path, tmp_path: Path) -> None:
    with serving(target.load()) as tiny:
        spec = spec_of(tiny, folder)
    with pytest.raises(ConnectionError) as error:
        make(target, spec, tmp_path)
    assert str(error.value).startswith(f"source 'far': no server answers at {spec.server} (")
    assert str(error.value).endswith(
        f"start it (vllm serve {folder} --max-logprobs <top_k>), or set sources.far.server to where it runs, and run the same "
        "command again"
    )


def test_a_server_that_dies_in_the_middle(
    target: LocalLLM, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it said before is kept, and only the rest is asked of the one that is started again, at another address."""
    monkeypatch.setattr("knowfuse.traces.asking.LOOK_EVERY_S", 0.0)
    with serving(target.load(), root="/models/a") as tiny:
        number = count()
        tiny.instead = lambda path, body: (0, None) if body is not None and next(number) >= 12 else None
        with pytest.raises(ConnectionError, match="What it said before is kept: see to it that the server runs"):
            make(target, spec_of(tiny, folder), tmp_path)
    with serving(target.load(), root="/models/a") as again:
        prepared = make(target, spec_of(again, folder), tmp_path)
        prepared.sources["far"].store.require(Documents.of(TEXTS).ids)
        assert 1 < again.asked.count("/v1/completions") <= 1 + len(TEXTS) - 6
    here = prepare(CORPUS, target.spec, {"near": target.spec}, 5, tmp_path, TRACING)
    for document in TEXTS:
        far, near = (p.sources[n].store.read(document.id) for p, n in ((prepared, "far"), (here, "near")))
        assert far.nll == pytest.approx(near.nll, rel=1e-4, abs=1.1e-3)


def test_what_decides_where_traces_are_kept(target: LocalLLM, folder: Path, tmp_path: Path) -> None:
    """What the server says of its LLM, and what the spec says that it does not: never its address."""
    with serving(target.load()) as tiny:

        def fingerprint(**more: Any) -> str:
            return connect("far", spec_of(tiny, folder, **more), tmp_path, 1).fingerprint

        first = fingerprint()
        others = {fingerprint(dtype="bfloat16"), fingerprint(revision="main")}
        for change in ({"root": "/models/b"}, {"name": "b"}, {"max_model_len": 100}):
            vars(tiny).update(change)
            others.add(fingerprint())
        vars(tiny).update(root="/models/tiny", name="tiny", max_model_len=512)
        assert fingerprint() == first not in others
        assert len(others) == 5
    with serving(target.load()) as moved:
        assert connect("far", spec_of(moved, folder), tmp_path, 1).fingerprint == first


def test_another_model_than_the_last_time_is_said(
    target: LocalLLM, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(target.load()) as tiny:
        connect("far", spec_of(tiny, folder), tmp_path, 1)
        assert "before" not in capsys.readouterr().out
        tiny.root = "/models/b"
        connect("far", spec_of(tiny, folder), tmp_path, 1)
        said = " ".join(capsys.readouterr().out.split())
    assert "'tiny' from '/models/b', 512 tokens, vllm (before: 'tiny' from '/models/tiny', 512 tokens, vllm)" in said


def test_documents_longer_than_the_server_holds_are_set_aside(
    target: LocalLLM, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One token of its context is for the token that it must make."""
    with serving(target.load(), max_model_len=40) as tiny:
        prepared = make(target, spec_of(tiny, folder), tmp_path)
        far = prepared.sources["far"]
        assert far.llm.context_length() == 39
        aside = far.store.set_aside
        assert 0 < len(aside) < len(TEXTS)
        its = far.surface
        assert set(aside) == {d.id for d in TEXTS if len(its.tokenize(d.text, d.is_complete).ends) > 39}
        assert "tokens, 'far' can hold 39" in " ".join(capsys.readouterr().out.split())
        scores = prepared.source_scores(CORPUS.split("validation"))["far"]
        assert scores.nats.keys() | scores.set_aside.keys() == {d.id for d in CORPUS.split("validation")}


def test_sglang_names_its_model_elsewhere_and_keeps_six_tokens(target: LocalLLM, folder: Path, tmp_path: Path) -> None:
    with serving(target.load(), kind="sglang") as tiny:
        far = connect("far", spec_of(tiny, folder), tmp_path, 1)
    assert (far.served.kind, far.served.model, far.served.root) == ("sglang", "tiny", "/models/tiny")
    assert far.context_length() == 512 - 6


LISTED = {"owned_by": "vllm", "root": None, "max_model_len": 99}


@pytest.mark.parametrize(
    ("models", "settings", "message"),
    [
        (
            ["a", "b"],
            {"served_model": "c"},
            r"/v1 has no 'c'; it has \['a', 'b'\]: set served_model to one of these, or",
        ),
        (["a", "b"], {}, r"has 2 models, none of them '.*'; it has \['a', 'b'\]: set served_model to one of these"),
        ([], {}, r"has 0 models, none of them"),
    ],
)
def test_a_server_without_the_model(
    models: list[str], settings: dict[str, Any], message: str, target: LocalLLM, folder: Path, tmp_path: Path
) -> None:
    with serving(target.load()) as tiny:
        tiny.instead = lambda path, body: (200, {"data": [{"id": name, **LISTED} for name in models]})
        with pytest.raises(ValueError, match=message):
            connect("far", spec_of(tiny, folder, **settings), tmp_path, 1)


def test_which_of_several_models(target: LocalLLM, folder: Path, tmp_path: Path) -> None:
    """The one that is named; else the only one; else the one that the server has from the same path."""
    with serving(target.load()) as tiny:
        listed = [{"id": "a", **LISTED}, {"id": "b", **LISTED, "root": str(folder)}, {"id": "c", **LISTED}]
        tiny.instead = lambda path, body: (200, {"data": listed})
        assert connect("far", spec_of(tiny, folder, served_model="c"), tmp_path, 1).served.model == "c"
        assert connect("far", spec_of(tiny, folder), tmp_path, 1).served.model == "b"
        listed[:] = listed[:1]
        its = connect("far", spec_of(tiny, folder), tmp_path, 1).served
        assert (its.model, its.root) == ("a", "a"), "a server that does not say where it has it from"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            (200, b"\xff<html>"),
            r"/v1/models answered '.<html>', which is not JSON: set server to the address of vLLM or",
        ),
        ((200, b"[1, 2"), r"answered '\[1, 2', which is not JSON"),
        ((200, {"models": []}), r"does not list models as vLLM and SGLang do \(KeyError: 'data'\): set server to"),
        ((200, [1]), r"does not list models as vLLM and SGLang do \(TypeError"),
        (
            (200, {"data": [{"id": "a", "owned_by": "ollama"}]}),
            r"says that it is 'ollama'; only vLLM and SGLang say .*set server_kind to vllm or sglang",
        ),
        ((200, {"data": [{"id": "a", "owned_by": "vllm"}]}), r"\(KeyError: 'max_model_len'\)"),
        ((404, {"detail": "Not Found"}), r"/v1/models answered status 404, .*Not Found"),
        ((302, b""), r"answered status 302, ''"),
        (
            (401, {"error": "Unauthorized"}),
            r"refused a request without a key \(status 401, 'Unauthorized'\): set its server",
        ),
    ],
)
def test_addresses_of_something_else(answer: Any, message: str, target: LocalLLM, folder: Path, tmp_path: Path) -> None:
    with serving(target.load()) as tiny:
        tiny.instead = lambda path, body: answer
        with pytest.raises(ValueError, match=r"source 'far'.*" + message):
            connect("far", spec_of(tiny, folder), tmp_path, 1)
        if answer[0] == 200 and answer[1] == {"data": [{"id": "a", "owned_by": "ollama"}]}:
            tiny.instead = lambda path, body: (200, {"data": [{"id": "a", "max_model_len": 9}]})
            assert connect("far", spec_of(tiny, folder, server_kind="vllm"), tmp_path, 1).served.kind == "vllm"


def test_a_damaged_memory_is_named(target: LocalLLM, folder: Path, tmp_path: Path) -> None:
    with serving(target.load()) as tiny:
        connect("far", spec_of(tiny, folder), tmp_path, 1)
        (kept,) = (tmp_path / "servers").iterdir()
        kept.write_text(kept.read_text()[:20])
        with pytest.raises(ValueError, match=rf"'{kept}' is cut off or damaged .*: remove it and run the same command"):
            connect("far", spec_of(tiny, folder), tmp_path, 1)


SERVED = {"path": "somewhere", "server": "http://127.0.0.1:8000/v1"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"server": "127.0.0.1:8000/v1"}, r"server is '127\.0\.0\.1:8000/v1': it must be http://<host>:<port>/v1"),
        ({"server": "ftp://here/v1"}, r"server is 'ftp://here/v1': it must be http://"),
        ({"server": "http:///v1"}, r"server is 'http:///v1': it must be"),
        (
            {"server": "http://here:port/v1"},
            r"server is 'http://here:port/v1' \(Port could not be cast.*\): it must be",
        ),
        (
            {"server": "http://here:8000"},
            r"server is 'http://here:8000': it must end with /v1, as in http://<host>:<port>/v1",
        ),
        ({"server": "http://here:8000/v1?a=b"}, r"it must be http://<host>:<port>/v1"),
        (
            {"quantization": "4bit"},
            r"has both server and quantization: what is served was loaded by the server; set path to",
        ),
        (
            {"gguf_file": "a.gguf"},
            r"has both server and gguf_file: .*leave gguf_file out, or leave server out and load it",
        ),
        ({"server": None, "served_model": "a"}, r"served_model is set and server is not: set server to http://<host>"),
        ({"server": None, "server_key": "KEY"}, r"server_key is set and server is not"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LLMSpec(**{**SERVED, **settings})


def test_a_recipe_has_no_server() -> None:
    recipe = instantiate(composed("train").sources.mpt, _convert_="all").recipe
    with pytest.raises(ValueError, match=r"an LLM has both server and recipe"):
        LLMSpec(**{**SERVED, "path": None, "recipe": recipe})


@pytest.mark.parametrize(
    ("settings", "secret"),
    [
        ({"server": "http://me:hunter2@here:8000/v1"}, "hunter2"),
        ({"server_key": "sk-0123"}, "sk-0123"),
        ({"server_key": "abc"}, "abc"),
    ],
)
def test_secrets_in_settings_are_refused_and_not_repeated(settings: dict[str, Any], secret: str) -> None:
    with pytest.raises(ValueError, match="environment variable") as error:
        LLMSpec(**{**SERVED, **settings})
    assert secret not in str(error.value)


def test_a_target_must_be_here(target: LocalLLM, folder: Path, tmp_path: Path) -> None:
    """Said by an experiment before anything is prepared, and by `knowfuse.prepare`; nothing is asked of the server."""
    message = (
        r"the target is served at http.*, and what is trained must be here: give it a path to its weights and no server"
    )
    settings = composed("train", "target=llama2_7b", f"+target.server={SERVED['server']}")
    with pytest.raises(InstantiationException, match=message):
        instantiate(settings, _convert_="all")
    with serving(target.load()) as tiny:
        done = ended("-m", "knowfuse.prepare", "target=llama2_7b", f"+target.server={tiny.address}", cache=tmp_path)
        assert re.search(message, " ".join(done.stderr.split()))
        assert not tiny.asked
    assert not list(tmp_path.iterdir())


def test_requests_at_a_time() -> None:
    assert instantiate(composed("prepare").tracing).server_requests == 32
    with pytest.raises(ValueError, match=r"tracing\.server_requests is 0: it must be at least 1"):
        replace(TRACING, server_requests=0)
