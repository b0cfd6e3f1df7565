"""How does a target go on from prompts: here, or where it is served?"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch

from knowfuse.llms.generating import Drawn, Only, generated
from knowfuse.llms.local import LocalLLM
from knowfuse.rollouts.prompts import Prompt
from knowfuse.rollouts.sampling import Sampling
from knowfuse.surface import Surface
from knowfuse.traces.served import ServedLLM, require_same, require_up
from knowfuse.traces.server import Server
from knowfuse.types import LLMSpec

Item = tuple[Prompt, int]  # a prompt, and which of its documents
GoOn = Callable[[Sequence[Item]], list[list[int]]]  # of prompts of one length: the ids that follow, EOS with them


def room(prompt: Prompt, sampling: Sampling, context_length: int) -> int:
    """So many tokens can follow."""
    return min(sampling.new_tokens, context_length - len(prompt.input_ids))


def sayable(surface: Surface) -> list[bool]:
    """Of each row of the LLM whether it may be said: a token of text, or the EOS."""
    may = [bool(piece) or i == surface.eos_id for i, piece in enumerate(surface.token_bytes[: surface.usable])]
    return [*may, *[False] * ((surface.rows or 0) - len(may))]


@contextmanager
def here(llm: LocalLLM, surface: Surface, sampling: Sampling, cache: Path) -> Iterator[GoOn]:
    """The LLM's weights are loaded once something is to be said, on this machine's accelerator where there is one."""
    may, most = Only(torch.tensor(sayable(surface))), llm.context_length()
    with llm.to_read(cache) as model:

        def go_on(items: Sequence[Item]) -> list[list[int]]:
            ids = torch.tensor([prompt.input_ids for prompt, _ in items])
            uniforms = np.stack([sampling.uniforms(prompt.input_ids, number) for prompt, number in items])
            drawn = Drawn(torch.from_numpy(uniforms), sampling.temperature, ids.shape[1])
            return generated(model, ids, room(items[0][0], sampling, most), surface.eos_id, [may, drawn])

        yield go_on


@contextmanager
def elsewhere(llm: ServedLLM, surface: Surface, sampling: Sampling) -> Iterator[GoOn]:
    """The server is asked for one document a request, each with its own seed, and must stay the same LLM meanwhile.

    ConnectionError where it is down or stays silent for minutes, ValueError where it has another LLM, or answers something else
    than ids.
    """
    never = {str(i): -100 for i, may in enumerate(sayable(surface)) if not may}
    stop = Event()
    with Server(llm.name, llm.spec, llm.requests) as server, ThreadPoolExecutor(llm.requests) as pool:
        with answering(llm.spec):
            require_up(server, llm)
        look = partial(require_same, server, llm)

        def ask(item: Item) -> list[int]:
            prompt, number = item
            body = {
                "model": llm.served.model,
                "prompt": list(prompt.input_ids),
                "max_tokens": room(prompt, sampling, llm.context_length()),
                "temperature": sampling.temperature,
                "seed": int(sampling.seed_of(prompt.input_ids, number)[:8], 16),
                "logit_bias": never,
                "stop_token_ids": [] if surface.eos_id is None else [surface.eos_id],
                "return_token_ids": True,
                # The habits of its folder's generation_config.json, which a server takes on, are not asked for.
                "top_p": 1.0,
                "top_k": 0,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
            }
            post = partial(server.post, f"{server.address}/completions", body)
            return _said(llm, server.patiently(post, stop, look), surface.eos_id)

        def go_on(items: Sequence[Item]) -> list[list[int]]:
            said = list(pool.map(ask, items))
            server.patiently(look, stop)
            return said

        try:
            yield go_on
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def answering(spec: LLMSpec) -> Iterator[None]:
    """ConnectionError that says how to start the server of a target, where it does not answer in the block."""
    try:
        yield
    except ConnectionError as error:
        raise ConnectionError(
            f"no server answers at {spec.server}: start it with vllm serve {spec.path}, and run the same command again, which goes on "
            "from what is written"
        ) from error


def _said(llm: ServedLLM, answer: Any, eos_id: int | None) -> list[int]:
    """The ids of an answer, up to its EOS, which is with them."""
    try:
        choice = answer["choices"][0]
        ids, has_ended = [int(i) for i in choice["token_ids"]], choice["finish_reason"] == "stop"
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"the server at {llm.spec.server} does not say which token ids it drew ({type(error).__name__}: {error}): vLLM does, by "
            "return_token_ids, from 0.10.2 on"
        ) from error
    if eos_id in ids:
        return ids[: ids.index(eos_id) + 1]
    return [*ids, eos_id] if has_ended and eos_id is not None else ids
