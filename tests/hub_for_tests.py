"""A hub on this machine, for its own client: what it is asked for, and what it is given."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants as hub
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


TOKEN = "hf_of-the-tests"


class Hub(ThreadingHTTPServer):
    """The part of the hub's interface that downloads and uploads use: one folder a repository, of one commit each."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.root, self.sent, self.gated = root, set[str](), set[str]()
        self.made: list[dict[str, Any]] = []  # what was asked of repositories that were made


class Answer(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # or each answer waits 40 ms until the arrival of its headers is acknowledged
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
        if path == "api/whoami-v2":
            is_known = self.headers["Authorization"] == f"Bearer {TOKEN}"
            self._send(200 if is_known else 401, json.dumps({"name": "me", "type": "user"}).encode())
            return
        if path.startswith(("api/models/", "api/datasets/")):
            self._of_repository(path.split("/", 2)[2])
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

    def do_POST(self) -> None:
        """A repository is made, and a commit sent, whose files are in the folder of the repository then."""
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        path, answer = self.path.partition("?")[0].strip("/"), dict[str, Any]()
        if path == "api/repos/create":
            self.server.made.append(asked := json.loads(sent))
            answer = {"url": f"{hub.ENDPOINT}/{asked['organization']}/{asked['name']}"}
        elif path == "api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(sent)["files"]
            ]
            answer = {"files": files}
        elif "/commit/" in path:
            repository = self.server.root / "/".join(path.split("/")[2:4])
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    file = repository / line["value"]["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(line["value"]["content"]))
            answer = {
                "success": True,
                "commitUrl": f"{hub.ENDPOINT}/{path.removeprefix('api/models/').removeprefix('api/').rpartition('/')[0]}/{COMMIT}",
                "commitOid": COMMIT,
            }
        self.send_response(200)
        body = json.dumps(answer).encode()
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def hub_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """It serves what is in this folder; the client knows no other, keeps its cache beside it, and has no token."""
    server = Hub(root)
    address = f"http://127.0.0.1:{server.server_port}"
    for key in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(key, raising=False)
    ours = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(root.with_name("hub cache")),
        "HF_TOKEN_PATH": str(root.with_name("no token")),
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
