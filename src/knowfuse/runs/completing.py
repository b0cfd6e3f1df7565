"""How do the LLMs of a run go on with Python? All are given the same prompts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from knowfuse.evaluation import Completed, Prompt, completed, prompts_of
from knowfuse.runs.answering import Named
from knowfuse.runs.prepared import Prepared
from knowfuse.screen import say
from knowfuse.text.document import Document


def code_prompts(documents: Sequence[Document], asked: Mapping[str, Any]) -> list[Prompt]:
    """Of these domains, as many as are asked; ValueError for a domain that is not there, or has no Python."""
    there = sorted({document.domain for document in documents})
    if strange := [domain for domain in asked["domains"] if domain not in there]:
        raise ValueError(f"completions.domains has {strange[0]!r}, which is no domain of the text: choose from {there}")
    return prompts_of([document for document in documents if document.domain in asked["domains"]], asked["documents"])


def completions_of(llms: Iterator[Named], prepared: Prepared, prompts: Sequence[Prompt]) -> dict[str, Completed]:
    """By name of the LLM."""
    found = {}
    for name, llm, model in llms:
        say(f"{name}: goes on from {len(prompts)} prompts")
        source = prepared.sources.get(name)
        surface = prepared.target_surface if source is None else source.surface
        found[name] = completed(model, surface, prompts, llm.context_length())
    return found
