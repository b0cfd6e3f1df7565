"""A W&B server on this machine: what `wandb sweep`, `wandb agent` and the runs that they start ask of one.

It speaks as much of W&B's GraphQL as wandb 0.31 cannot do without, hands out a grid, and keeps what runs send.
"""

import gzip
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

Answer = dict[str, Any]
PROJECT = {"id": "project", "name": "knowfuse", "entity": {"id": "entity", "name": "us"}}
SERVER = {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "latestLocalVersionInfo": None, "features": []}


@dataclass
class WandbState:
    """What the server was told; runs are those of its one sweep."""

    sweep: dict[str, Any] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)  # of the sweep's grid, not yet handed out
    given: dict[str, dict[str, Any]] = field(default_factory=dict)  # point of each run
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # lines of metrics of each run
    exit_codes: dict[str, int] = field(default_factory=dict)
    falls_behind: dict[str, str] = field(default_factory=dict)  # runs to stop once they have told this metric
    agents: int = 0
    url: str = ""
    artifacts: list[dict[str, Any]] = field(default_factory=list)  # as they were asked to be made, in this order
    uploaded: dict[str, bytes] = field(default_factory=dict)  # by the path of what was put
    lock: threading.Lock = field(default_factory=threading.Lock)


def _upsert_sweep(state: WandbState, asked: Answer) -> Answer:
    if asked.get("config"):
        state.sweep = yaml.safe_load(asked["config"])
        parameters = state.sweep["parameters"]
        state.points = [
            dict(zip(parameters, values, strict=True))
            for values in itertools.product(*(parameter["values"] for parameter in parameters.values()))
        ]
    return {"upsertSweep": {"sweep": {"id": "sweep", "name": "sweep", "project": PROJECT}}}


def _sweep(state: WandbState, asked: Answer) -> Answer:
    sweep = {
        "id": "sweep",
        "name": "sweep",
        "method": "grid",
        "state": "RUNNING",
        "config": yaml.safe_dump(state.sweep),
    }
    return {"project": {"id": "project", "sweep": {**sweep, "runs": {"edges": []}}}}


def _create_agent(state: WandbState, asked: Answer) -> Answer:
    with state.lock:
        state.agents += 1
        return {"createAgent": {"agent": {"id": f"agent{state.agents}"}}}


def _heartbeat(state: WandbState, asked: Answer) -> Answer:
    """The next point of the grid when nothing runs, and the end when there is none; else to stop what falls behind."""
    commands: list[dict[str, Any]] = []
    running = json.loads(asked.get("runState") or "{}")
    with state.lock:
        if running:
            told = {name: [key for line in state.history.get(name, []) for key in line] for name in running}
            commands = [{"type": "stop", "run_id": n} for n in running if state.falls_behind.get(n) in told[n]]
        else:
            if state.points:
                point, name = state.points.pop(0), f"run{len(state.given)}"
                state.given[name] = point
                values = {key: {"value": value} for key, value in point.items()}
                program = state.sweep["program"]
                commands = [{"id": name, "type": "run", "run_id": name, "program": program, "args": values}]
            else:
                commands = [{"id": "exit", "type": "exit"}]
    return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}


def _upsert_bucket(state: WandbState, asked: Answer) -> Answer:
    name = asked["name"]
    bucket = {"id": name, "name": name, "displayName": name, "config": "{}", "sweepName": asked.get("sweep")}
    return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0, "project": PROJECT}, "inserted": True}}


def _create_run_files(state: WandbState, asked: Answer) -> Answer:
    return {"createRunFiles": {"runID": asked.get("run"), "uploadHeaders": [], "files": []}}


def _create_artifact(state: WandbState, asked: Answer) -> Answer:
    with state.lock:
        state.artifacts.append(asked["input"])
        artifact = {"id": str(len(state.artifacts) - 1), "state": "PENDING"}
    return {"createArtifact": {"artifact": {**artifact, "artifactSequence": {"latestArtifact": None}}}}


def _create_manifest(state: WandbState, asked: Answer) -> Answer:
    file = _place(state, asked["artifactID"], "manifest")
    return {"createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": {"id": "file", **file}}}}


def _create_files(state: WandbState, asked: Answer) -> Answer:
    files = asked["input"]["artifactFiles"]
    nodes = [
        {
            **_place(state, file["artifactID"], file["name"]),
            "storagePath": file["name"],
            "uploadMultipartUrls": None,
            "artifact": {"id": file["artifactID"]},
        }
        for file in files
    ]
    return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}


def _place(state: WandbState, artifact: str, name: str) -> Answer:
    return {"uploadUrl": f"{state.url}/{artifact}/{name}", "uploadHeaders": []}


def _commit_artifact(state: WandbState, asked: Answer) -> Answer:
    return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": "any"}}}


def _no_artifact_yet(state: WandbState, asked: Answer) -> Answer:
    return {"project": None}


def _viewer(state: WandbState, asked: Answer) -> Answer:
    viewer = {"id": "user", "entity": "us", "username": "us", "flags": "{}", "teams": {"edges": []}}
    return {"viewer": viewer, "serverInfo": SERVER}


def _server_info(state: WandbState, asked: Answer) -> Answer:
    return {"serverInfo": SERVER}


# The first that occurs in a query answers it.
ANSWERS: dict[str, Callable[[WandbState, Answer], Answer]] = {
    "upsertSweep": _upsert_sweep,
    "createAgent": _create_agent,
    "agentHeartbeat": _heartbeat,
    "upsertBucket": _upsert_bucket,
    "createRunFiles": _create_run_files,
    "createArtifact(": _create_artifact,
    "createArtifactManifest(": _create_manifest,
    "createArtifactFiles(": _create_files,
    "commitArtifact(": _commit_artifact,
    "ArtifactType(": _no_artifact_yet,
    "sweep(": _sweep,
    "viewer": _viewer,
    "serverInfo": _server_info,
}


def _answer(state: WandbState, query: str, asked: Answer) -> Answer:
    for part, answer in ANSWERS.items():
        if part in query:
            return answer(state, asked)
    if "__type" in query:  # what this server's schema knows: nothing more
        return {
            name: {"fields": [], "inputFields": []} for name in re.findall(r"(\w+)\s*:\s*__type", query) or ["__type"]
        }
    return {}  # of a run that went on, an organization: wandb goes on without


def _keep_stream(state: WandbState, run: str, sent: Answer) -> None:
    """What a run streams: its metrics, line by line, and how it ended."""
    lines = sent.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
    state.history.setdefault(run, []).extend(json.loads(line) for line in lines)
    if "exitcode" in sent:
        state.exit_codes[run] = sent["exitcode"]


@contextmanager
def wandb_server() -> Iterator[tuple[str, WandbState]]:
    """Its URL and what it was told."""
    state = WandbState()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits 40 ms until the arrival of its headers is acknowledged

        def log_message(self, *_: Any) -> None:
            """Not on the screen."""

        def _sent(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def _reply(self, value: Answer) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._reply({})

        def do_PUT(self) -> None:
            state.uploaded[self.path] = self._sent()
            self._reply({})

        def do_POST(self) -> None:
            sent = self._sent()
            if self.path.endswith("/graphql"):
                asked = json.loads(sent)
                self._reply({"data": _answer(state, asked["query"], asked.get("variables") or {})})
                return
            if self.path.endswith("/file_stream"):
                _keep_stream(state, self.path.split("/")[-2], json.loads(sent))
            self._reply({"exitcode": None, "limits": {}})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state.url, state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
