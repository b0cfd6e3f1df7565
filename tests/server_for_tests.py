"""A small inference server on this machine: real HTTP, the forms of vLLM and SGLang, a tiny model's own log-probabilities."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import PreTrainedModel

Answer = tuple[int, Any]  # status, and what goes out as JSON, or bytes as they are


@dataclass
class TinyServer:
    """What is served, how it misbehaves, and what it was asked."""

    model: PreTrainedModel
    kind: str = "vllm"
    name: str = "tiny"
    root: str = "/models/tiny"
    max_model_len: int = 512
    max_logprobs: int = 20
    key: str | None = None
    # What a question is answered instead: called with its path and its body; None: as it should be.
    instead: Callable[[str, Any], Answer | None] = lambda path, body: None
    address: str = ""
    asked: list[str] = field(default_factory=list)  # paths
    keys: set[str | None] = field(default_factory=set)
    connections: set[tuple[str, int]] = field(default_factory=set)
    at_once: int = 0  # the most questions about text that were open at a time
    _open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, body: Any) -> Answer:
        if instead := self.instead(path, body):
            return instead
        if path == "/v1/models":
            its = {"id": self.name, "owned_by": self.kind, "max_model_len": self.max_model_len}
            return 200, {"data": [{**its, "root": self.root if self.kind == "vllm" else self.name}]}
        if path == "/get_model_info":
            return 200, {"model_path": self.root}
        if path == "/v1/completions" and self.kind == "vllm":
            return self._vllm(body)
        if path == "/generate" and self.kind == "sglang":
            return 200, self._sglang(body)
        return 404, {"detail": "Not Found"}

    def _vllm(self, body: dict[str, Any]) -> Answer:
        ids, most = body["prompt"], body["prompt_logprobs"]
        if body["model"] != self.name:
            return 404, _error(f"The model `{body['model']}` does not exist.")
        if most > self.max_logprobs:
            return 400, _error(
                f"Requested prompt logprobs of {most}, which is greater than max allowed: {self.max_logprobs}"
            )
        if max(ids) >= self.model.config.vocab_size:
            return 400, _error(f"Token id {max(ids)} is out of vocabulary")
        if len(ids) >= self.max_model_len:
            return 400, _error(f"This model's maximum context length is {self.max_model_len} tokens.")
        rows = self.log_probs(ids)
        said = [
            {str(i): {"logprob": x} for i, x in _top(row, most, true)}
            for row, true in zip(rows[:-1], ids[1:], strict=True)
        ]
        last = {f"token_id:{i}": x for i, x in _top(rows[-1], max(most, 1))}
        choice = {"prompt_token_ids": ids, "prompt_logprobs": [None, *said], "logprobs": {"top_logprobs": [last]}}
        return 200, {"choices": [choice]}

    def _sglang(self, body: dict[str, Any]) -> dict[str, Any]:
        ids, most = body["input_ids"], body["top_logprobs_num"]
        rows = self.log_probs(ids)
        about: dict[str, Any] = {"finish_reason": {"type": "length", "length": 1}}
        about["input_token_logprobs"] = [
            [None, ids[0], None],
            *([float(row[i]), i, None] for row, i in zip(rows[:-1], ids[1:], strict=True)),
        ]
        if most > 0:
            tops = [[[x, i, None] for i, x in _top(row, most)] for row in rows]
            about |= {"input_top_logprobs": [None, *tops[:-1]], "output_top_logprobs": tops[-1:]}
        return {"text": "", "meta_info": about}

    def log_probs(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)


def _top(row: torch.Tensor, most: int, true: int | None = None) -> list[tuple[int, float]]:
    """The true token first, then the most probable ones, as vLLM lists them."""
    top = row.topk(min(most, len(row)))
    pairs = [] if true is None else [(true, float(row[true]))]
    return list(dict([*pairs, *zip(top.indices.tolist(), top.values.tolist(), strict=True)]).items())


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "code": 400}}


@contextmanager
def serving(model: PreTrainedModel, **options: Any) -> Iterator[TinyServer]:
    """It answers at its `address`, on a free port, until the block ends."""
    tiny = TinyServer(model, **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open
        disable_nagle_algorithm = True  # or each answer waits 40 ms until the arrival of its headers is acknowledged

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            with tiny._lock:
                tiny._open += 1
                tiny.at_once = max(tiny.at_once, tiny._open)
            try:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            finally:
                with tiny._lock:
                    tiny._open -= 1

        def _answer(self, body: Any) -> None:
            tiny.asked.append(self.path)
            tiny.keys.add(self.headers["Authorization"])
            tiny.connections.add(self.client_address)
            is_let_in = tiny.key is None or self.headers["Authorization"] == f"Bearer {tiny.key}"
            status, said = tiny.answer(self.path, body) if is_let_in else (401, {"error": "Unauthorized"})
            if status == 0:  # the connection breaks
                self.close_connection = True
                return
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *_: Any) -> None:
            """The tests' screen stays as it is."""

    class Http(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    with Http(("127.0.0.1", 0), Handler) as http:
        tiny.address = f"http://127.0.0.1:{http.server_port}/v1"
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield tiny
        finally:
            http.shutdown()
            thread.join()
