"""How is an inference server asked? Over connections that stay open, and again where it fails only for a while."""

import json
import os
import random
from collections.abc import Callable, Mapping
from threading import Event
from typing import Any, TypeVar

import urllib3

from knowfuse.types import LLMSpec

T = TypeVar("T")

CONNECT_S, ANSWER_S = 10.0, 600.0  # how long a connection, and an answer, may take
TRIES = 10  # of one request: three minutes of waiting, then the server counts as gone
FIRST_WAIT_S, LONGEST_WAIT_S = (
    0.5,
    60.0,
)  # between two tries; each wait is twice the last, and up to half of it is left out
BUSY = (408, 425, 429)  # statuses that pass, beside all from 500 on
SHOWN = 300  # characters of an answer that an error shows
_jitter = random.Random()  # of its own: what is seeded for training is not touched


class Unanswered(ConnectionError):
    """The server does not answer now; it may later. `wait_s` is how long it asked to be left alone."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Server:
    """The server of a source, for any number of threads; closed at the end of a `with` block.

    Its API key is read from the environment here, is sent to this address alone, and appears in no error.
    """

    def __init__(self, source: str, spec: LLMSpec, requests: int = 1) -> None:
        assert spec.server is not None
        self.source, self.address = source, spec.server.rstrip("/")
        self.root = self.address.removesuffix("/v1")  # what is not of OpenAI's API is above it
        self._key_name = spec.server_key
        self._headers = {"Content-Type": "application/json"} | _authorization(source, spec.server_key)
        self._pool = urllib3.PoolManager(
            maxsize=requests, retries=False, timeout=urllib3.Timeout(connect=CONNECT_S, read=ANSWER_S)
        )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.clear()

    def get(self, url: str) -> Any:
        """What `url` answers; `Unanswered` where it does not now, ValueError where it refuses or answers no JSON."""
        return self._ask("GET", url, None)

    def post(self, url: str, body: Mapping[str, Any]) -> Any:
        """The same, of a request with a body."""
        return self._ask("POST", url, json.dumps(body).encode())

    def patiently(self, ask: Callable[[], T], stop: Event, look: Callable[[], None] = lambda: None) -> T:
        """What `ask` returns, in up to `TRIES` tries; `look` is called before each but the first, and `stop` ends the waiting.

        Raises ConnectionError once it is given up.
        """
        number = 0
        while True:
            try:
                if number > 0:
                    look()
                return ask()
            except Unanswered as error:
                number += 1
                if number == TRIES or stop.wait(max(_wait_s(number), error.wait_s)):
                    raise ConnectionError(
                        f"source {self.source!r}: its server did not answer in {number} tries, the last: {error}. What it said "
                        "before is kept: see to it that the server runs, and run the same command again, which goes on from there"
                    ) from error

    def _ask(self, method: str, url: str, body: bytes | None) -> Any:
        try:
            answer = self._pool.request(method, url, body=body, headers=self._headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise Unanswered(f"{url}: {type(error).__name__}: {error}") from error
        if answer.status != 200:
            self._refuse(url, answer)
        try:
            return json.loads(answer.data)
        except ValueError as error:  # not JSON, or not UTF-8
            raise ValueError(
                f"source {self.source!r}: {url} answered {_start(answer.data)}, which is not JSON: set server to the address "
                "of vLLM or SGLang, which ends with /v1"
            ) from error

    def _refuse(self, url: str, answer: urllib3.BaseHTTPResponse) -> None:
        status, said = answer.status, _message(answer.data)
        if status in BUSY or status >= 500:
            raise Unanswered(f"{url}: status {status}, {said}", _seconds(answer.headers.get("Retry-After")))
        if status in (401, 403):
            asked = f"the key in {self._key_name}" if self._key_name else "a request without a key"
            raise ValueError(
                f"source {self.source!r}: {url} refused {asked} (status {status}, {said}): set its server_key to the name of "
                "an environment variable that holds the server's API key"
            )
        raise Refused(f"source {self.source!r}: {url} answered status {status}, {said}", status)


class Refused(ValueError):
    """The server says that it never will answer this request."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _authorization(source: str, name: str | None) -> dict[str, str]:
    if name is None:
        return {}
    key = os.environ.get(name, "").strip()
    if not key:
        raise ValueError(
            f"source {source!r}: its server_key is {name}, and the environment has no such variable: set it"
        )
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"source {source!r}: the API key in {name} has characters that no HTTP header can hold")
    return {"Authorization": f"Bearer {key}"}


def _wait_s(number: int) -> float:
    """After so many tries."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (number - 1)) * _jitter.uniform(0.5, 1.0)


def _seconds(stated: str | None) -> float:
    """Of a Retry-After; a date, which it may be too, is left to our own waits."""
    return min(LONGEST_WAIT_S, float(stated)) if stated is not None and stated.isdigit() else 0.0


def _message(data: bytes) -> str:
    """What an error says: vLLM and SGLang put it into `error.message`, `error` or `message`."""
    try:
        said = json.loads(data)
    except ValueError:
        return _start(data)
    for key in ("error", "message"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return repr(str(said)[:SHOWN])


def _start(data: bytes) -> str:
    return repr(data[:SHOWN].decode(errors="replace"))
