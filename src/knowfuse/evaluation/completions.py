"""Does an LLM go on with Python so that it stays Python? Nothing of it is run: the share of completions that `ast.parse` accepts.

A prompt is the first half of a document, in whole lines, the same text for every LLM. Each says its most probable tokens, one after
another, for as many bytes as the document goes on with. Taken are documents that pass themselves, from the first line at which
they do: the true text has a share of 1.
"""

import ast
import codeop
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria

from knowfuse.llms.generating import Only, generated
from knowfuse.progress import counting
from knowfuse.surface import Surface
from knowfuse.text.document import Document

LEAST_BYTES = 64  # of a document, or of the end of it that is taken
MOST_BYTES = 256  # that an LLM goes on for
UNFINISHED = "incomplete input"  # CPython's words for the beginning of a program, where it is asked to know one


@dataclass(frozen=True)
class Prompt:
    """The beginning of a document, and for how many bytes it goes on."""

    id: str
    text: str
    num_bytes: int


@dataclass(frozen=True)
class Completed:
    """How many prompts an LLM went on from, and how many completions are Python."""

    prompts: int
    accepted: int

    @property
    def share(self) -> float:
        """Of completions that are accepted, between 0 and 1."""
        return self.accepted / self.prompts

    @property
    def error(self) -> float:
        """The standard error of the share, over the prompts."""
        return math.sqrt(self.share * (1.0 - self.share) / self.prompts)


def is_python(prompt: str, completion: str) -> bool:
    """Whether `ast.parse` accepts both up to the last statement that is whole, and that statement ends in the completion.

    A completion is cut at some byte: what stands after its last line break is left out, and so are lines that begin a
    statement and do not end it. Anything else that is not Python makes it False, and so does a completion of nothing whole,
    or of comments and blanks alone. A prompt whose first line is indented is read inside blocks that begin before it.
    """
    before = _blocks(prompt) + prompt
    text = (before + completion).rpartition("\n")[0] + "\n"
    while len(text) > len(before):
        tree = _parsed(text)
        if tree is None:
            return False
        if tree != UNFINISHED:
            assert isinstance(tree, ast.Module)
            return _end(tree) > (before.count("\n") + 1, len(before.rpartition("\n")[2].encode()))
        text = text[:-1].rpartition("\n")[0] + "\n"
    return False


def _blocks(text: str) -> str:
    """A block at each column up to the text's first line, so that it may go on at any that is not deeper."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    indentation = first[: len(first) - len(first.lstrip(" \t"))]
    return "".join(f"{indentation[:column]}if 1:\n" for column in range(len(indentation)))


def _parsed(text: str) -> ast.AST | str | None:
    """The tree, `UNFINISHED` for what more lines could make Python, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings
            flags = ast.PyCF_ONLY_AST | codeop.PyCF_ALLOW_INCOMPLETE_INPUT  # pyright: ignore[reportAttributeAccessIssue]
            return compile(text, "<completion>", "exec", flags)
    except SyntaxError as error:
        return UNFINISHED if error.msg == UNFINISHED else None
    except (ValueError, MemoryError, RecursionError):  # of zero bytes, and of what is too deep for the parser
        return None


def _end(tree: ast.Module) -> tuple[int, int]:
    """Line, from 1, and byte in it at which the last statement ends."""
    last = tree.body[-1] if tree.body else None
    return (0, 0) if last is None else (last.end_lineno or 0, last.end_col_offset or 0)


def prompts_of(documents: Sequence[Document], number: int) -> list[Prompt]:
    """At most so many, evenly spread over the documents that can be prompts; ValueError where none can."""
    fit = [prompt for document in documents if (prompt := _prompt_of(document)) is not None]
    if not fit:
        raise ValueError(
            f"none of {len(documents)} documents of domains {sorted({d.domain for d in documents})} is Python that could be begun "
            "and gone on with: name the domains of Python code"
        )
    return [fit[place * len(fit) // number] for place in range(number)] if len(fit) > number else fit


def _prompt_of(document: Document) -> Prompt | None:
    """Of its longest end, in whole lines, that passes: a document that was cut from a file may begin inside a statement."""
    data = document.text.encode()
    while len(data) >= LEAST_BYTES:
        half = data[: len(data) // 2].rpartition(b"\n")[
            0
        ]  # to say the line break, and how the next line begins, is to go on
        num_bytes = min(len(data) - len(half), MOST_BYTES)
        rest = data[len(half) : len(half) + num_bytes].decode(errors="ignore")
        if half.strip() and is_python(half.decode(), rest):
            return Prompt(document.id, half.decode(), num_bytes)
        data = data.partition(b"\n")[2]
    return None


def completed(model: PreTrainedModel, surface: Surface, prompts: Sequence[Prompt], max_tokens: int) -> Completed:
    """How an LLM does on them; it is asked one after another, and reads no more than `max_tokens`."""
    accepted = 0
    with counting(f"goes on {surface.name}", len(prompts), "prompts", stays=False) as advance:
        for prompt in prompts:
            accepted += is_python(prompt.text, went_on(model, surface, prompt, max_tokens))
            advance(1)
    return Completed(len(prompts), accepted)


def went_on(model: PreTrainedModel, surface: Surface, prompt: Prompt, max_tokens: int) -> str:
    """What it finds most probable next, and next after that, up to its EOS or the bytes of the prompt; nothing is sampled.

    A character that is cut at the end is left out.
    """
    ids = torch.from_numpy(surface.tokenize(prompt.text, is_complete=False).input_ids)[None]
    room = max(1, min(prompt.num_bytes, max_tokens - ids.shape[1]))
    may = Only(torch.ones(surface.usable, dtype=torch.bool))
    enough = _Enough(surface, ids.shape[1], prompt.num_bytes)
    (said,) = generated(model, ids, room, surface.eos_id, [may], [enough])
    return _spelled(surface, said)[: prompt.num_bytes].decode(errors="ignore")


def _spelled(surface: Surface, ids: Sequence[int]) -> bytes:
    return b"".join(surface.token_bytes[i] or b"" for i in ids)


class _Enough(StoppingCriteria):
    """Stops where the new tokens have as many bytes as are wanted."""

    def __init__(self, surface: Surface, begun: int, num_bytes: int) -> None:
        self.surface, self.begun, self.num_bytes = surface, begun, num_bytes

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        said = [len(_spelled(self.surface, row[self.begun :].tolist())) for row in input_ids]
        return torch.tensor([size >= self.num_bytes for size in said], device=input_ids.device)
