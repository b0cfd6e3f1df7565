"""Which conversations do a user's settings mean? Files and data sets of messages, each a domain, each by its weight."""

from dataclasses import replace
from typing import Any

from knowfuse.text.conversations import Conversations
from knowfuse.text.corpus import Corpus
from knowfuse.text.document import LEARN
from knowfuse.text.mixture import HELD_OUT, DomainTexts, domains_of_data, mixed
from knowfuse.text.settings import shares_of
from knowfuse.text.text_files import files_by_domain

WHOLE = 2**31  # bytes: a conversation is not cut, and one that an LLM cannot hold is set aside


def chat(
    files: Any = None,
    datasets: Any = None,
    learn: Any = "assistant",
    validation_share: Any = HELD_OUT,
    test_share: Any = HELD_OUT,
    weights: Any = None,
    weigh_by: Any = "bytes",
    seed: int | None = 0,
    cache: str | None = None,
) -> Corpus:
    """Conversations of `.jsonl` and `.parquet` files and of data sets, of which `learn` says what a target learns.

    `files`, `datasets`, `weights` and what else `text.mixture.mixture` knows are as there. A row has `messages`,
    `conversations` (ShareGPT), or `prompt` and `completion`. ValueError as there, and for a `learn` that does not exist; rows
    that hold no conversation are told all at once.
    """
    if learn not in LEARN:
        raise ValueError(f"corpus.learn is {learn!r}: choose one of {', '.join(LEARN)}")
    shares, read_as = shares_of(validation_share, test_share), Conversations()
    domains: list[DomainTexts] = [] if files is None else [*files_by_domain(files, lambda domain: read_as)]
    domains += domains_of_data(datasets, shares, read_as)
    if not domains:
        raise ValueError(
            "there are no conversations: give corpus.files or corpus.datasets, such as 'corpus.files={chat: [chat.jsonl]}'"
        )
    return replace(mixed("chat", domains, WHOLE, shares, weights, weigh_by, seed, cache), learn=learn)
