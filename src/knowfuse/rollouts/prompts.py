"""From which beginnings does a target write? Those of its run's own documents, or the texts or conversations of a file."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from knowfuse.screen import say
from knowfuse.surface import Surface
from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.surface.unspellable import TOO_LONG, by_kind
from knowfuse.text.conversations import Conversations
from knowfuse.text.document import Document, Message, RawDocument
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
    """The beginning of each document, each once: a text's first tokens, a conversation up to the answer it ends with.

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
    """Every text of a file is a prompt, whole; of an LLM that reads conversations every conversation, as for `prompts_of`. Each once.

    ValueError for what cannot be read, and for prompts that the target cannot spell, or that leave it no room to go on.
    """
    if not path.is_file():
        raise ValueError(f"prompts is {str(path)!r}, and there is no such file: give a .txt or .jsonl file, or null")
    findings, is_chat = Findings(), surface.chat is not None
    rows = Conversations(needs_answer=False) if is_chat else TextRows(["text"], "text_field")
    found = [RawDocument.of(each, "prompts") for each in texts_in(path, rows, True, findings)]
    findings.require_no_faults()
    if findings.skipped:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in findings.skipped.items())
        say(f"rollouts: of {path} left out: {left_out}; the first is {next(iter(findings.first.values()))}")
    given = [Document(each.text, each.domain, "fusion", is_complete=is_chat, messages=each.messages) for each in found]
    tokens = _begun(given, surface, most_tokens) if is_chat else tokenize_documents(surface, given, most_tokens - 1)
    names, aside = tokens.documents.names, tokens.set_aside
    if numbers := [number for number, name in enumerate(names, 1) if name in aside]:
        raise ValueError(
            f"{len(numbers)} of {len(given)} prompts of {str(path)!r} cannot be gone on with, the first is number {numbers[0]}: "
            f"{aside[names[numbers[0] - 1]]}. Its context is of {most_tokens}: cut them shorter, or leave them out"
        )
    return _each_once([_prompt(tokens, place) for place in range(len(given))], str(path))


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
    found = [_prompt(tokens, place) for place in tokens.places.tolist()]
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


def _begun(documents: Sequence[Document], surface: Surface, most_tokens: int) -> TokenizedDocuments:
    """The conversations up to their last answer, all of one that ends with no answer, and a letter for the next, in tokens."""
    begun = []
    for document in documents:
        said = document.messages[:-1] if document.messages[-1].role == "assistant" else document.messages
        text = "".join(document.contents[: len(said)]) + ANSWER
        messages = (*said, Message("assistant", len(ANSWER)))
        begun.append(replace(document, text=text, messages=messages, learn="last"))
    return tokenize_documents(surface, begun, most_tokens)


def _prompt(tokens: TokenizedDocuments, place: int) -> Prompt:
    """A whole text, or a conversation that `_begun` cut, up to the answer."""
    its, document = tokens.at(place), tokens.documents[place]
    if its.turns is None:
        return Prompt(tuple(its.input_ids.tolist()), document.text)
    (turn,) = its.turns
    return Prompt(
        tuple(its.input_ids[: turn.before + 1].tolist()),
        document.text.encode()[: turn.begin].decode(),
        document.messages[:-1],
    )


def _each_once(found: Sequence[Prompt], of: str) -> list[Prompt]:
    prompts = list(dict.fromkeys(found))
    say(f"rollouts: {len(prompts):,} prompts of {of}, {len(found) - len(prompts):,} that begin alike left out")
    return prompts
