"""Which LLM does a server serve? What it says of it decides under which key its traces are kept."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from knowfuse.files import undamaged, write_whole
from knowfuse.llms.hub import download_tokenizer
from knowfuse.llms.local import LocalLLM
from knowfuse.screen import say
from knowfuse.surface import Surface
from knowfuse.traces.answers import RESERVED, Kind
from knowfuse.traces.server import Refused, Server, Unanswered
from knowfuse.types import LLMSpec


@dataclass(frozen=True)
class Served:
    """What a server says that it serves: another answer is another LLM.

    Not its version: an update would have everything read again.
    """

    kind: Kind
    model: str  # the name by which it is asked
    root: str  # where the server has the LLM from
    max_model_len: int  # tokens

    def __str__(self) -> str:
        return f"{self.model!r} from {self.root!r}, {self.max_model_len} tokens, {self.kind}"


@dataclass(frozen=True)
class ServedLLM:
    """A source whose weights are on a server; its tokenizer is here. `requests` are those that it is sent at a time."""

    name: str
    spec: LLMSpec
    here: LocalLLM  # without weights
    served: Served
    requests: int

    @property
    def fingerprint(self) -> str:
        """A hash of what the server says of its LLM, and of what the spec says that the server does not."""
        its = json.dumps([asdict(self.served), self.spec.dtype, self.spec.revision], sort_keys=True)
        return hashlib.sha256(its.encode()).hexdigest()

    def surface(self, is_chat: bool = False) -> Surface:
        """The surface of its tokenizer, as that of an LLM that is here."""
        return self.here.surface(is_chat)

    def context_length(self) -> int:
        """Tokens of a document that the server can read."""
        return self.served.max_model_len - RESERVED[self.served.kind]


def connect(name: str, spec: LLMSpec, cache: Path, requests: int) -> ServedLLM:
    """The LLM of a spec with a server, which is asked what it serves.

    A server that does not answer is taken for what it was when it last did: its traces may all be there, and it is told
    where they are not. Raises ConnectionError where it never answered, ValueError where it has not the LLM that is wanted.
    """
    asked = hashlib.sha256(json.dumps([spec.server, spec.served_model, spec.path, spec.server_kind]).encode())
    kept = cache / "servers" / f"{name}-{asked.hexdigest()[:12]}.json"
    before = _remembered(kept)
    try:
        with Server(name, spec) as server:
            served = look(server, spec)
    except Unanswered as error:
        if before is None:
            raise _down(name, spec, error) from error
        served = before
        say(f"source {name}: {spec.server} does not answer; it is taken for what it was: {served}")
    else:
        if served != before:
            write_whole(kept, json.dumps(asdict(served)).encode())
        say(
            f"source {name}: served at {spec.server}: {served}"
            + (f" (before: {before})" if before not in (None, served) else "")
        )
    return ServedLLM(name, spec, _without_weights(name, spec), served, requests)


def look(server: Server, spec: LLMSpec) -> Served:
    """What the server serves now. ValueError where it has not the LLM that is wanted, or does not say what it has."""
    url = f"{server.address}/models"
    listed = server.get(url)
    try:
        models = {str(m["id"]): m for m in listed["data"]}
        chosen = _chosen(server, spec, models)
        kind = next((kind for kind in get_args(Kind) if kind == (spec.server_kind or chosen.get("owned_by"))), None)
        if kind is None:
            raise ValueError(
                f"source {server.source!r}: {url} says that it is {chosen.get('owned_by')!r}; only vLLM and SGLang say what every token of a "
                "text could have been. Where it is one of them behind a proxy, set server_kind to vllm or sglang"
            )
        root = chosen.get("root") or chosen["id"] if kind == "vllm" else _path_at_sglang(server)
        return Served(kind, chosen["id"], str(root), int(chosen["max_model_len"]))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"source {server.source!r}: {url} does not list models as vLLM and SGLang do ({type(error).__name__}: {error}): "
            "set server to the address of one of them, which ends with /v1"
        ) from error


def require_same(server: Server, llm: ServedLLM) -> None:
    """ValueError if the server has another LLM than it had; `Unanswered` where it does not say."""
    if (now := look(server, llm.spec)) != llm.served:
        raise ValueError(
            f"source {llm.name!r}: the server at {llm.spec.server} has another LLM than when the reading began: {now}, it was "
            f"{llm.served}. What it said before is kept: start it as it was, and run the same command again; or run it with "
            "the server as it is now, and everything is read anew, beside the old traces"
        )


def require_up(server: Server, llm: ServedLLM) -> None:
    """`require_same`, with what to run where the server does not answer."""
    try:
        require_same(server, llm)
    except Unanswered as error:
        raise _down(llm.name, llm.spec, error) from error


def _chosen(server: Server, spec: LLMSpec, models: dict[str, Any]) -> dict[str, Any]:
    """The entry of the LLM that is wanted."""
    if spec.served_model is not None:
        wanted = [m for m in models.values() if m["id"] == spec.served_model]
    elif len(models) == 1:
        wanted = list(models.values())
    else:
        wanted = [m for m in models.values() if spec.path in (m["id"], m.get("root"))]
    if len(wanted) != 1:
        name = f"no {spec.served_model!r}" if spec.served_model else f"{len(models)} models, none of them {spec.path!r}"
        raise ValueError(
            f"source {server.source!r}: the server at {server.address} has {name}; it has {sorted(models)}: set served_model "
            "to one of these, or start the server with the LLM that is wanted"
        )
    return wanted[0]


def _path_at_sglang(server: Server) -> str:
    """Its list of models gives every LLM the name it is asked by as its root; two more addresses, old and new, know better."""
    try:
        return server.get(f"{server.root}/model_info")["model_path"]
    except Refused:
        return server.get(f"{server.root}/get_model_info")["model_path"]


def _down(name: str, spec: LLMSpec, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"source {name!r}: no server answers at {spec.server} ({error}): start it (vllm serve {spec.path} --max-logprobs "
        f"<top_k>), or set sources.{name}.server to where it runs, and run the same command again"
    )


def _without_weights(name: str, spec: LLMSpec) -> LocalLLM:
    assert spec.path is not None
    folder = Path(spec.path).expanduser()
    if not folder.is_dir() and spec.tokenizer is None:
        folder = download_tokenizer(name, spec.path, spec.revision, spec.trust_remote_code)
    return LocalLLM(name, replace(spec, path=str(folder)), fingerprint="")


def _remembered(kept: Path) -> Served | None:
    if not kept.exists():
        return None
    with undamaged(kept):
        return Served(**json.loads(kept.read_text(encoding="utf-8")))
