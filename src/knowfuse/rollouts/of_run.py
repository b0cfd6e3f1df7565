"""What does the target of a finished run write? The run says target, text and cache; the rest is asked for."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from knowfuse.llms.local import LocalLLM
from knowfuse.rollouts.going_on import answering, elsewhere, here
from knowfuse.rollouts.prompts import prompts_in, prompts_of, spread
from knowfuse.rollouts.sampling import Sampling
from knowfuse.rollouts.target import NAME, saved_target
from knowfuse.rollouts.writing import Rollouts, write_rollouts
from knowfuse.runs.trained import Trained
from knowfuse.screen import say
from knowfuse.traces.served import ServedLLM, connect
from knowfuse.types import LLMSpec


@dataclass(frozen=True)
class Asked:
    """From which prompts, by how many at a time, and where; of all but `prompts` nothing changes what is written."""

    prompts: str | None = None  # a file; None: the beginnings of the run's fusion text
    most_prompts: int | None = None
    batch_documents: int = 32
    server: str | None = None
    served_model: str | None = None
    server_key: str | None = None


def rollouts_of(trained: Trained, sampling: Sampling, asked: Asked, cache: Path | None = None) -> Rollouts:
    """What it wrote, here or where it is served; made where `cache` (None: the run's) has it not.

    ValueError for prompts as `prompts` says.
    """
    target, corpus, cache = saved_target(trained), trained.prepared.corpus, cache or trained.prepared.cache
    served = None if asked.server is None else _served(target, asked, cache)
    surface, most = target.surface(corpus.is_chat), (served or target).context_length()
    if asked.prompts is None:
        documents = spread(corpus.split("fusion"), asked.most_prompts)
        prompts = prompts_of(documents, surface, sampling.prompt_tokens, most)
    else:
        prompts = prompts_in(Path(asked.prompts).expanduser(), surface, most)
    origin = {"run": str(trained.run), "method": trained.method, "target": target.fingerprint}
    fingerprint, go_on_by = target.fingerprint, partial(here, target, surface, sampling, cache)
    if served is not None:
        fingerprint, go_on_by = f"{fingerprint} {served.fingerprint}", partial(elsewhere, served, surface, sampling)
    return write_rollouts(go_on_by, fingerprint, surface, prompts, sampling, asked.batch_documents, cache, origin)


def _served(target: LocalLLM, asked: Asked, cache: Path) -> ServedLLM:
    """ValueError for a server that is no vLLM; what it says that it has is told beside the folder that it should have."""
    spec = LLMSpec(
        path=str(target.folder),
        dtype=target.spec.dtype,
        server=asked.server,
        served_model=asked.served_model,
        server_key=asked.server_key,
    )
    with answering(spec):
        llm = connect(NAME, spec, cache, asked.batch_documents)
    if llm.served.kind != "vllm":
        raise ValueError(f"the server at {asked.server} is {llm.served.kind}: a target writes here, or through vLLM")
    if llm.served.root != str(target.folder):
        say(
            f"WARNING: the server has {llm.served.root!r}: that it is the run's target, as in {target.folder}, is taken on trust"
        )
    return llm
