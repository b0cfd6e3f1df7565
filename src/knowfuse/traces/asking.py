"""What does a served source expect next, at each token of each document? Many documents are asked of its server at once.

The same promises as `reading.trace_documents`, beside it: the server batches, so here is one request a document.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from threading import Event
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float32

from knowfuse.surface import Surface
from knowfuse.traces.answers import Said, question, read_answer
from knowfuse.traces.served import ServedLLM, require_same, require_up
from knowfuse.traces.server import Refused, Server
from knowfuse.types import EMPTY, SourceTrace, TokenizedDocument, TopK

T = TypeVar("T")
LOOK_EVERY_S = 10.0  # what was said is handed on once the server is found to be the same as before


def trace_served(
    llm: ServedLLM,
    surface: Surface,
    documents: Mapping[str, TokenizedDocument],
    top_k: int,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Iterator[dict[str, SourceTrace]]:
    """The traces of the documents, some at a time as the answers come; `advance` is told how many tokens were read.

    All that is yielded was said between two looks at the server that found the same LLM. Raises ValueError where `top_k`
    exceeds the vocabulary or what the server gives, where it has another LLM, or where it answers something else than was
    asked; ConnectionError where it is down, or stays silent for minutes.
    """
    surface.require_top_k(top_k)
    has_entry = np.array([bool(s) for s in surface.token_strings[: surface.usable]])

    def read(asked: "_Asked", name: str) -> SourceTrace:
        trace = asked.trace(name, documents[name], has_entry, top_k)
        advance(len(trace.input_ids))
        return trace

    yield from _answers(llm, documents, top_k, read)


def nats_served(
    llm: ServedLLM, documents: Mapping[str, TokenizedDocument]
) -> Iterator[tuple[str, Float32[np.ndarray, " U"]]]:
    """What the source pays for the token after each row of each document, in nats; raises as `trace_served` does."""

    def read(asked: "_Asked", name: str) -> np.ndarray:
        return asked.said(name, documents[name], 0).nll

    for some in _answers(llm, documents, 0, read):
        yield from some.items()


class _Asked:
    """The questions about single documents, from any thread; `stop` ends all waiting."""

    def __init__(self, server: Server, llm: ServedLLM, stop: Event) -> None:
        self.server, self.llm, self.stop = server, llm, stop
        self.look = partial(require_same, server, llm)

    def said(self, name: str, tokens: TokenizedDocument, most: int) -> Said:
        """What the server says of a document; ValueError names it where that is refused, of another form, or not finite."""
        served, input_ids = self.llm.served, tokens.input_ids.tolist()
        path, body = question(served.kind, served.model, input_ids, most)
        try:
            ask = partial(self.server.post, self.server.root + path, body)
            said = read_answer(served.kind, self.server.patiently(ask, self.stop, self.look), input_ids, most)
        except Refused as error:
            self.look()  # another LLM is the better reason
            raise self._refused(name, most, error) from error
        except ValueError as error:
            raise ValueError(f"source {self.llm.name!r}, document {name}: {error}") from error
        if not np.isfinite(said.nll).all() or np.isnan(said.log_probs).any():
            raise ValueError(
                f"source {self.llm.name!r} returned NaN or infinite log-probabilities on document {name}: check the dtype "
                "and the weights of its server"
            )
        return said

    def trace(self, name: str, tokens: TokenizedDocument, has_entry: Bool[np.ndarray, " E"], top_k: int) -> SourceTrace:
        """As much is asked as it takes to have K tokens with an entry in the tokenizer in every row."""
        wanted, most = min(top_k, int(has_entry.sum())), top_k
        while True:
            said = self.said(name, tokens, most)
            is_token = (said.ids < len(has_entry)) & has_entry[np.minimum(said.ids, len(has_entry) - 1)]
            if (missing := wanted - int(is_token.sum(-1).min())) <= 0:
                break
            most += missing
        order = np.argsort(~is_token, axis=-1, kind="stable")[:, :top_k]  # those with an entry first, as they were
        ids, log_probs = (np.take_along_axis(part, order, -1) for part in (said.ids, said.log_probs))
        log_probs[~np.take_along_axis(is_token, order, -1)] = EMPTY
        return SourceTrace(tokens.input_ids, tokens.ends, TopK(ids, log_probs), said.nll)

    def _refused(self, name: str, most: int, error: Refused) -> ValueError:
        start = f"source {self.llm.name!r}, document {name}"
        if "greater than max allowed" in str(error):
            return ValueError(
                f"{start}: {most} log-probabilities a token are more than its server gives ({_reason(error)}): start it with "
                f"--max-logprobs {most}, or set top_k lower"
            )
        if "out of vocabulary" in str(error):
            return ValueError(
                f"{start}: its tokenizer gives token ids that the LLM on its server has not ({_reason(error)}): set its `path:` "
                "or `tokenizer:` to the tokenizer of the LLM that is served"
            )
        return ValueError(f"{error} (document {name})")


def _reason(error: Refused) -> str:
    return str(error).partition(" answered ")[2]


def _answers(
    llm: ServedLLM, documents: Mapping[str, TokenizedDocument], most: int, read: Callable[[_Asked, str], T]
) -> Iterator[dict[str, T]]:
    """What `read` makes of every document, the longest first, `llm.requests` at a time."""
    if not documents:
        return
    stop = Event()
    with Server(llm.name, llm.spec, llm.requests) as server:
        require_up(server, llm)
        asked = _Asked(server, llm, stop)
        first = next(iter(documents))
        largest = max(int(t.input_ids.max(initial=0)) for t in documents.values())
        # Before any text: a BOS and the largest id that occurs. What is refused of them would be refused of a document.
        ids = np.array([documents[first].input_ids[0], largest])
        asked.said(first, TokenizedDocument(ids, np.zeros(2, dtype=np.int64)), most)
        longest_first = sorted(documents, key=lambda d: (-len(documents[d].input_ids), d))
        yield from _between_looks(
            _at_once(partial(read, asked), longest_first, llm.requests, stop),
            lambda: server.patiently(asked.look, stop),
        )


def _at_once(work: Callable[[str], T], names: Iterable[str], number: int, stop: Event) -> Iterator[tuple[str, T]]:
    """What `work` makes of each name, as it is done, `number` of them at a time; nothing runs on once this ends."""
    rest = iter(names)
    with ThreadPoolExecutor(number) as pool:
        try:
            running = {pool.submit(work, name): name for name in islice(rest, number)}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: f.exception() is not None):  # what was said is not lost
                    name, its = running.pop(future), future.result()
                    for another in islice(rest, 1):
                        running[pool.submit(work, another)] = another
                    yield name, its
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _between_looks(said: Iterable[tuple[str, T]], look: Callable[[], None]) -> Iterator[dict[str, T]]:
    """What was said, handed on after a look that found nothing changed."""
    some: dict[str, T] = {}
    last = time.monotonic()
    for name, its in said:
        some[name] = its
        if time.monotonic() - last >= LOOK_EVERY_S:
            look()
            yield some
            some, last = {}, time.monotonic()
    if some:
        look()
        yield some
