"""Which rows of a document in tokens are learnt, and where in it are the messages of a conversation?

A document's ends say where its messages are, in whichever tokens: what the template adds takes no bytes.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from knowfuse.surface.cutting import Marks
from knowfuse.text.document import Span
from knowfuse.types import TokenizedDocument, Turn


def turns_of(
    input_ids: Int[np.ndarray, " T"], ends: Int[np.ndarray, " T"], spans: Sequence[Span], marks: Marks
) -> list[Turn]:
    """The messages at these bytes, by rows of a document in tokens."""
    firsts = np.searchsorted(ends, [span.begin for span in spans], side="right").tolist()
    lasts = np.searchsorted(ends, [span.end for span in spans]).tolist()
    nexts = np.searchsorted(ends, ends[lasts], side="right").tolist()  # where the next message begins
    turns = []
    for span, token, last, following in zip(spans, firsts, lasts, nexts, strict=True):
        is_after_space = token > 1 and int(input_ids[token - 1]) in marks.leads
        ending = input_ids[last + 1 : following].tolist() if span.role == "assistant" else []
        closes = last + ending.index(marks.eos_id) if marks.eos_id in ending else None
        turns.append(Turn(span.begin, span.end, token - 1 - is_after_space, token - 1, last, closes))
    return turns


def same_turns(
    input_ids: Int[np.ndarray, " T"], ends: Int[np.ndarray, " T"], turns: Sequence[Turn], marks: Marks
) -> list[Turn]:
    """The same messages in the tokens of another LLM."""
    spans = [Span("user" if turn.closes is None else "assistant", turn.begin, turn.end) for turn in turns]
    return turns_of(input_ids, ends, spans, marks)


def served_by(
    tokens: TokenizedDocument, input_ids: Int[np.ndarray, " U"], ends: Int[np.ndarray, " U"], marks: Marks
) -> dict[int, int]:
    """The row of another LLM that serves each row of a conversation which is learnt: the last of its message that ends there or before."""
    assert tokens.turns is not None
    rows: dict[int, int] = {}
    for mine, their in zip(tokens.turns, same_turns(input_ids, ends, tokens.turns, marks), strict=True):
        for row in range(mine.first, mine.last):
            at = np.searchsorted(ends[their.first : their.last], max(tokens.ends[row], mine.begin), side="right")
            rows[row] = their.first + max(int(at) - 1, 0)
        if mine.closes is not None and their.closes is not None:
            rows[mine.closes] = their.closes
    return rows


def learnt_rows(document: TokenizedDocument) -> tuple[Bool[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
    """The rows whose label is learnt: those that predict a token of the text, and those that predict what ends it.

    Of a text all but the last and those whose token begins in its prompt, the EOS apart. Of a conversation those of its turns;
    what an answer needs to be closed, of the template, ends it.
    """
    size = len(document.ends)
    is_text, is_end = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    if document.turns is None:
        is_text[: size - 1] = document.ends[: size - 1] >= document.prompt_bytes
        if ends_with_eos(document.ends):
            is_text[size - 2], is_end[size - 2] = False, True
        return is_text, is_end
    for turn in document.turns:
        is_text[turn.first : turn.last] = True
        if turn.closes is not None:
            is_end[turn.last : turn.closes + 1] = True
    return is_text, is_end


def num_ends(document: TokenizedDocument) -> int:
    """How often a document ends: a text once, where it is complete; a conversation with each turn that is learnt."""
    if document.turns is None:
        return int(ends_with_eos(document.ends))
    return sum(turn.closes is not None for turn in document.turns)


def ends_with_eos(ends: Int[np.ndarray, " T"]) -> bool:
    """Whether a text was marked as complete: its last token takes no bytes."""
    return len(ends) > 1 and bool(ends[-1] == ends[-2])
