"""From which beginnings does a target write? Those of its run's own documents, or the texts of a file."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from knowfuse.progress import say
from knowfuse.surface import Surface
from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.surface.unspellable import TOO_LONG, by_kind
from knowfuse.text.document import Document, Message
from knowfuse.text.documents import Documents
from knowfuse.text.findings import Findings
from knowfuse.text.formats import texts_in
from knowfuse.text.rows import TextRows

ANSWER = "a"  # in place of the answer that is to be written: what stands before it is the prompt


@dataclass(frozen=True)
class Prompt:
    """Tokens that a document begins with, and what they stand for; of a conversation the messages before the answer."""

    input_ids: tuple[int, ...]
    text: str
    messages: tuple[Message, ...] = ()


def spread(documents: Documents, most: int | None) -> Documents:
    """At most so many of them, evenly spread; ValueError where none is asked for."""
    if most is not None and most < 1:
        raise ValueError(f"most_prompts is {most}: it must be at least 1, or null for all")
    if most is None or most >= len(documents):
        return documents
    return documents.take(np.arange(most) * len(documents) // most)


def prompts_of(documents: Documents, surface: Surface, prompt_tokens: int, most_tokens: int) -> list[Prompt]:
    """The beginning of each document, each once: a text's first tokens, a conversation up to its last answer.

    `most_tokens` are what the LLM can hold. Documents without such a beginning are counted by reason in a line.
    ValueError where that leaves it no room to go on, or where no document has such a beginning.
    """
    if documents.is_chat:
        found, left_out = _of_conversations(documents, surface, most_tokens)
    elif prompt_tokens < most_tokens:
        found, left_out = _of_texts(documents, surface, prompt_tokens)
    else:
        raise ValueError(
            f"prompt_tokens is {prompt_tokens}, and target {surface.name!r} can hold {most_tokens} tokens in all: set it lower, so "
            "that there is room to go on"
        )
    if not found:
        raise ValueError(
            f"none of the {len(documents)} documents of the run begins so that target {surface.name!r} can go on: {left_out}"
        )
    if left_out:
        say(f"rollouts: {len(documents) - len(found):,} of {len(documents):,} documents left out: {left_out}")
    return _each_once(found, f"{len(documents):,} documents")


def prompts_in(path: Path, surface: Surface, most_tokens: int) -> list[Prompt]:
    """Every text of a file is a prompt, whole, each once.

    ValueError for what cannot be read, and for prompts that the target cannot spell, or that leave it no room to go on.
    """
    if not path.is_file():
        raise ValueError(f"prompts is {str(path)!r}, and there is no such file: give a .txt or .jsonl file, or null")
    findings = Findings()
    found = list(texts_in(path, TextRows(["text"], "text_field"), True, findings))
    findings.require_no_faults()
    texts = [Document(str(text), "prompts", "fusion", is_complete=False) for text in found]
    tokens = tokenize_documents(surface, texts, most_tokens - 1)
    if aside := tokens.set_aside:
        number = next(n for n, text in enumerate(texts, 1) if text.id in aside)
        raise ValueError(
            f"{len(aside)} of {len(texts)} prompts of {str(path)!r} cannot be gone on with, the first is number {number}: "
            f"{aside[texts[number - 1].id]}, of the {most_tokens} of its context. Cut them shorter, or leave them out"
        )
    return _each_once([Prompt(tuple(tokens[text.id].input_ids.tolist()), text.text) for text in texts], str(path))


def _of_texts(documents: Documents, surface: Surface, prompt_tokens: int) -> tuple[list[Prompt], str]:
    """Those of the texts, however long, and what is said of the others."""
    tokens, found = tokenize_documents(surface, documents, sys.maxsize), []
    longer = tokens.places[tokens.sizes[tokens.places] > prompt_tokens]
    for place in longer.tolist():
        its = tokens.at(place)
        data = documents[place].text.encode()[: its.ends[prompt_tokens - 1]]
        # One that ends inside a character, or holds nothing, is none.
        if data and (text := data.decode(errors="ignore")).encode() == data:
            found.append(Prompt(tuple(its.input_ids[:prompt_tokens].tolist()), text))
    told = {
        f"of at most prompt_tokens={prompt_tokens} tokens, for which it can be lower": len(tokens.places) - len(longer),
        f"whose first {prompt_tokens} tokens end inside a character": len(longer) - len(found),
        "that its tokens do not spell": len(documents) - len(tokens.places),
    }
    return found, ", ".join(f"{number:,} {reason}" for reason, number in told.items() if number)


def _of_conversations(documents: Documents, surface: Surface, most_tokens: int) -> tuple[list[Prompt], str]:
    """Those of the conversations that the LLM can read and answer, and what is said of the others."""
    tokens = _begun(documents, surface, most_tokens)
    found = []
    for place in tokens.places.tolist():
        its, document = tokens.at(place), tokens.documents[place]
        assert its.turns is not None
        (turn,) = its.turns
        text = document.text.encode()[: turn.begin].decode()
        found.append(Prompt(tuple(its.input_ids[: turn.before + 1].tolist()), text, document.messages[:-1]))
    aside = np.setdiff1d(np.arange(len(documents)), tokens.places).tolist()
    if not aside:
        return found, ""
    reasons = [tokens.set_aside[name] for name in tokens.documents.take(np.array(aside)).names]
    kinds = by_kind(reasons)
    counted = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items())
    remedy = ". Shorter conversations leave room for an answer" if TOO_LONG in kinds else ""
    return (
        found,
        f"{counted}; the first, {documents.names[aside[0]]}, with an answer of one letter: {reasons[0]}{remedy}",
    )


def _begun(documents: Documents, surface: Surface, most_tokens: int) -> TokenizedDocuments:
    """The conversations up to their last answer, in place of which a letter stands, in tokens."""
    begun = []
    for document in documents:
        last = max(n for n, message in enumerate(document.messages) if message.role == "assistant")
        text = "".join(document.contents[:last]) + ANSWER
        messages = (*document.messages[:last], Message("assistant", len(ANSWER)))
        begun.append(replace(document, text=text, messages=messages, learn="last"))
    return tokenize_documents(surface, begun, most_tokens)


def _each_once(found: Sequence[Prompt], of: str) -> list[Prompt]:
    prompts = list(dict.fromkeys(found))
    say(f"rollouts: {len(prompts):,} prompts of {of}, {len(found) - len(prompts):,} that begin alike left out")
    return prompts
