"""The hub's own client against a server on this machine: what is asked for, and what is said where that cannot be had."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from gguf_for_tests import write_gguf
from models_for_tests import tiny_llm
from tokenizers_for_tests import llama

from knowfuse.llms.local import localize
from knowfuse.types import LLMSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The part of the hub's interface that a download uses: one folder a repository, of one commit each."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.root, self.sent, self.gated = root, set[str](), set[str]()


class Answer(BaseHTTPRequestHandler):
    server: Hub  # type: ignore[assignment]

    def log_message(self, *_: Any) -> None: ...

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            self._of_repository(path.removeprefix("api/models/"))
            return
        repository, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        file = self.server.root / repository / name
        if repository in self.server.gated:
            self._send(403, X_Error_Code="GatedRepo")
        elif revision not in (COMMIT, "main"):
            self._send(404, X_Error_Code="RevisionNotFound")
        elif not file.is_file():
            self._send(404, X_Error_Code="EntryNotFound")
        else:
            if self.command == "GET":
                self.server.sent.add(name)
            data = file.read_bytes()
            self._send(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def _of_repository(self, path: str) -> None:
        repository = "/".join(path.split("/")[:2])
        kind, _, revision = path.removeprefix(repository).strip("/").partition("/")
        folder = self.server.root / repository
        if not folder.is_dir():
            self._send(404, X_Error_Code="RepoNotFound")
        elif revision.split("/")[0] not in ("", "main", COMMIT):
            self._send(404, X_Error_Code="RevisionNotFound")
        else:
            files = [p for p in folder.rglob("*") if p.is_file()]
            names = [p.relative_to(folder).as_posix() for p in files]
            tree = [
                {"type": "file", "path": name, "size": p.stat().st_size, "oid": hashlib.sha1(name.encode()).hexdigest()}
                for name, p in zip(names, files, strict=True)
            ]
            info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._send(200, json.dumps(tree if kind == "tree" else info).encode(), Content_Type="application/json")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one LLM, `org/tiny`, with all that such repositories hold; the client knows no other."""
    server = Hub(tmp_path / "hub")
    folder = tmp_path / "hub" / "org" / "tiny"
    tokenizer = llama()
    tokenizer.chat_template = "{{ messages }}"
    tiny_llm("llama", len(tokenizer)).save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    for name in ("pytorch_model.bin", "original/params.json", "onnx/model.onnx", "training_args.bin", "model.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"# {name}")
    (folder / "README.md").write_text("# it")
    address = f"http://127.0.0.1:{server.server_port}"
    for key in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    ours = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "hub cache"),
    }
    for key, value in ours.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{key}", value)
    huggingface_hub.close_session()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
    huggingface_hub.close_session()


def test_what_transformers_needs_is_downloaded_and_nothing_else(hub: Hub) -> None:
    """Once; the LLM loads, and has the fingerprint of the folder that was uploaded."""
    llm = localize("mine", LLMSpec(path="org/tiny"))
    shards = {f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)}
    wanted = {"config.json", "generation_config.json", "model.safetensors.index.json", *shards}
    wanted |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"}
    assert hub.sent == wanted
    assert llm.load().config.model_type == "llama"
    assert llm.tokenizer().chat_template == "{{ messages }}"
    assert llm.fingerprint == localize("mine", LLMSpec(path=str(hub.root / "org" / "tiny"))).fingerprint
    hub.sent.clear()
    assert localize("mine", LLMSpec(path="org/tiny")).folder == llm.folder
    assert not hub.sent
    localize("mine", LLMSpec(path="org/tiny", trust_remote_code=True))
    assert hub.sent == {"model.py"}


def test_of_a_gguf_repository_only_that_file_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    folder = hub.root / "org" / "gguf"
    folder.mkdir()
    write_gguf(folder / "tiny-Q8_0.gguf")
    write_gguf(folder / "split.gguf", parts=2)
    localize("mine", LLMSpec(path="org/gguf", gguf_file="tiny-Q8_0.gguf"), tmp_path / "cache")
    assert hub.sent == {"tiny-Q8_0.gguf"}
    hub.sent.clear()
    localize("mine", LLMSpec(path="org/gguf", gguf_file="split-00001-of-00002.gguf"), tmp_path / "cache")
    assert hub.sent == {"split-00001-of-00002.gguf", "split-00002-of-00002.gguf"}


def test_a_tokenizer_of_another_repository_comes_without_weights(hub: Hub, tmp_path: Path) -> None:
    tiny_llm("llama", len(llama())).save_pretrained(tmp_path / "llm")
    llm = localize("mine", LLMSpec(path=str(tmp_path / "llm"), tokenizer="org/tiny"))
    assert not [name for name in hub.sent if name.endswith(".safetensors")]
    assert llm.surface().vocabulary_size == len(llama())


@pytest.mark.parametrize("is_offline", [True, False])
def test_what_was_downloaded_serves_without_network(
    hub: Hub, is_offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where HF_HUB_OFFLINE is set, and where nobody answers. What was not downloaded is told with what to run."""
    spec = LLMSpec(path="org/tiny")
    online = localize("mine", spec)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", is_offline)
    hub.shutdown()
    hub.server_close()
    assert localize("mine", spec) == online
    why = "HF_HUB_OFFLINE is set" if is_offline else "http://127.* does not answer"
    message = (
        rf"^LLM 'mine': 'org/other' is no folder here, and of the hub's 'org/other' at revision 'v2' the cache of this machine "
        rf"\(.*hub cache\) has not all files, while {why}: run hf download org/other where there is network, and give the folder$"
    )
    with pytest.raises(ValueError, match=message):
        localize("mine", LLMSpec(path="org/other", revision="v2"))
    (online.folder / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^LLM 'mine': 'org/tiny', as it came .* names model-00002-of-00004\.saf"):
        localize("mine", spec)


@pytest.mark.parametrize(
    ("path", "revision", "message"),
    [
        ("org/none", None, r"'org/none' is neither a folder here nor on the hub: check the path, or run hf auth login"),
        ("org/tiny", "v9", r"'org/tiny' has no revision 'v9' on the hub: check `revision:`"),
        ("org/gated", None, r"'org/gated' is gated: ask for access at http://127.*/org/gated, then run hf auth login"),
        (
            "./no/such/folder",
            None,
            r"'./no/such/folder' is neither a folder here nor on the hub \(no id of it looks so\)",
        ),
    ],
)
def test_what_the_hub_does_not_give_is_said(hub: Hub, path: str, revision: str | None, message: str) -> None:
    (gated := hub.root / "org" / "gated").mkdir()
    (gated / "config.json").write_text("{}")
    hub.gated.add("org/gated")
    with pytest.raises(ValueError, match=f"^LLM 'mine': {message}") as error:
        localize("mine", LLMSpec(path=path, revision=revision))
    assert "\n" not in str(error.value)
