"""Which document did a target write? What it said after a prompt, as a line of JSON, or why it is none."""

from collections.abc import Sequence
from typing import Any

from knowfuse.rollouts.prompts import Prompt
from knowfuse.surface import Surface, UnspellableDocument
from knowfuse.surface.conversations import in_tokens
from knowfuse.text.document import Document, Message, spans_of

Line = dict[str, Any]
NOTHING = "that end at once"
UNFINISHED, UNREADABLE = "answers that do not end within new_tokens", "that the target cannot read"


def line_of(surface: Surface, prompt: Prompt, said: Sequence[int]) -> Line:
    """The document of these ids, EOS with them where there is one; up to the first byte that is no UTF-8.

    A text has `text`, `prompt_bytes` and `is_complete`, a conversation `messages`; `other_tokens` says whether the target's
    tokenizer cuts it otherwise than it was said. `left_out` alone says why there is none.
    """
    data = b"".join(surface.token_bytes[i] or b"" for i in said)
    if prompt.messages and data.startswith(surface.lead):
        data = data[len(surface.lead) :]  # a space before an answer is the template's
    text, is_whole = _decoded(data)
    ends = is_whole and surface.eos_id is not None and surface.eos_id in said
    if not text or (prompt.messages and text.isspace()):
        return {"left_out": NOTHING}
    if prompt.messages and not ends:
        return {"left_out": UNFINISHED}
    document = _document(prompt, text, ends)
    (tokens,) = in_tokens(surface, [document])
    if isinstance(tokens, UnspellableDocument):
        return {"left_out": UNREADABLE}
    same = tokens.input_ids[: len(prompt.input_ids) + len(said)].tolist() == [*prompt.input_ids, *said]
    about = {"other_tokens": not same}
    if not prompt.messages:
        begun = len(prompt.text.encode())
        return {"text": document.text, "prompt_bytes": begun, "is_complete": ends, **about}
    whole = document.text.encode()
    spans = spans_of(document.messages)
    return {"messages": [{"role": s.role, "content": whole[s.begin : s.end].decode()} for s in spans], **about}


def _decoded(data: bytes) -> tuple[str, bool]:
    """The text up to the first byte that is no UTF-8, and whether that is all of it."""
    try:
        return data.decode(), True
    except UnicodeDecodeError as error:
        return data[: error.start].decode(), False


def _document(prompt: Prompt, text: str, ends: bool) -> Document:
    if not prompt.messages:
        return Document(prompt.text + text, "own", "fusion", ends)
    messages = (*prompt.messages, Message("assistant", len(text.encode())))
    return Document(prompt.text + text, "own", "fusion", messages=messages, learn="last")
