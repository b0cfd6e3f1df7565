"""Which conversation does a row hold? In one of the three forms that chat data sets have.

`messages`: a list of `{role, content}`. `conversations`: the same, or ShareGPT's `{from, value}`. `prompt` and `completion`: two
texts, the user's and the assistant's, or two lists of messages. A row that says more than its messages' contents to a template, such
as tools that may be called, is left out and counted: without it the LLM would be asked something else, or have said something else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from knowfuse.text.document import ROLES, Conversation, Message, Role
from knowfuse.text.findings import HALF_PAIR, Findings, is_whole

FORMS = (("messages",), ("conversations",), ("prompt", "completion"))
NAMED: dict[str, Role] = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": "assistant",
}  # what ShareGPT calls them
WANTED = "messages, conversations, or prompt and completion"
OF_ROW = ("system", "tools", "functions", "documents")  # beside the messages
OF_MESSAGE = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")  # beside the content
LEARNT = (None, 1)  # what a message's `weight` is where it counts as others do; OpenAI's 0 is an answer not to learn
NOTHING = (None, "", "[]", [], {})
NO_CONTENT, NO_ANSWER = "conversation with an empty message", "conversation without an answer of the assistant"
SHAPE = "give each row a list of messages, {role, content}, whose contents are texts"
ANY_ROLE = f"use the roles {', '.join(ROLES)} (ShareGPT's human and gpt are known too)"


class Conversations:
    """Reads rows as conversations, each with the bytes of its messages as they are; to be learnt from they need an answer."""

    holds = "conversation"
    state: Any = (
        "conversations",
        *OF_ROW,
        *OF_MESSAGE,
        "weight",
        "empty system prompt",
    )  # in place of the names of fields, in the key of a corpus

    def __init__(self, needs_answer: bool = True) -> None:
        self.needs_answer = needs_answer

    def columns(self, there: Sequence[str]) -> list[str]:
        """Those that are read of a table with these columns; none where it holds no conversation."""
        form = next((list(form) for form in FORMS if set(form) <= set(there)), [])
        return [*form, *(field for field in OF_ROW if form and field in there)]

    def of(self, record: Mapping[str, Any], place: str, row: int, findings: Findings) -> Conversation | None:
        """The conversation of a row.

        None where there is nothing to learn, which is counted: a message without content, no answer, or more than messages of
        text. An empty system prompt is content: it says to many a template that its own is not wanted. What is no conversation, or
        has a role that no LLM knows, is a fault.
        """
        at = f"{place} {row}"
        try:
            said = _said(record)
        except _Fault as fault:
            what, remedy = fault.args
            findings.fault(at, what, remedy, place)
            return None
        except _LeftOut as why:
            findings.skip(str(why), at)
            return None
        contents = [content for _, content in said]
        if any(content.isspace() or (not content and role != "system") for role, content in said):
            findings.skip(NO_CONTENT, at)
        elif self.needs_answer and all(role != "assistant" for role, _ in said):
            findings.skip(NO_ANSWER, at)
        elif not is_whole("".join(contents)):
            findings.skip(HALF_PAIR, at)
        else:
            messages = tuple(Message(role, len(content.encode())) for role, content in said)
            return Conversation("".join(contents), messages)
        return None


class _Fault(Exception):
    """What is wrong with a row, and what to do about it."""


class _LeftOut(Exception):
    """What is in a row beside messages of text, or in place of one."""


def _said(record: Mapping[str, Any]) -> list[tuple[Role, str]]:
    form = next((form for form in FORMS if all(record.get(field) is not None for field in form)), None)
    if form is None:
        there = ", ".join(map(repr, record)) or "nothing"
        raise _Fault(f"has no conversation: it has {there}, wanted are {WANTED}", f"name the fields {WANTED}")
    _require_no_more(record, OF_ROW)
    if len(form) == 1:
        return _messages(record[form[0]], form[0])
    prompt, completion = (record[field] for field in form)
    if isinstance(prompt, str) and isinstance(completion, str):
        return [("user", prompt), ("assistant", completion)]
    return [*_messages(prompt, "prompt"), *_messages(completion, "completion")]


def _require_no_more(said: Mapping[str, Any], fields: Sequence[str]) -> None:
    for field in fields:
        if said.get(field) not in NOTHING:
            raise _LeftOut(f"conversation with {field!r}, which no template is given")


def _messages(listed: Any, field: str) -> list[tuple[Role, str]]:
    if not isinstance(listed, list | tuple) or not listed:
        raise _Fault(f"has no list of messages in field {field!r}, but {type(listed).__name__} {_shown(listed)}", SHAPE)
    return [_message(each, f"message {n} of {field!r}") for n, each in enumerate(listed, 1)]


def _message(each: Any, which: str) -> tuple[Role, str]:
    keys = next(
        (k for k in (("role", "content"), ("from", "value")) if isinstance(each, Mapping) and k[0] in each), None
    )
    if keys is None:
        raise _Fault(f"has no role in {which}: {_shown(each)}", SHAPE)
    role, content = (each.get(key) for key in keys)
    if not isinstance(role, str) or role not in NAMED:
        raise _Fault(f"has an unknown role {_shown(role)} in {which}", ANY_ROLE)
    _require_no_more(each, OF_MESSAGE)
    if each.get("weight") not in LEARNT:
        raise _LeftOut("conversation with a message of another 'weight' than 1, and all answers are learnt alike")
    if content is None:  # an empty message, and of a system prompt one or none: which, it does not say
        raise _LeftOut(NO_CONTENT)
    if not isinstance(content, str):
        raise _Fault(f"has no text in {which}, but {type(content).__name__} {_shown(content)}", SHAPE)
    return NAMED[role], content


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
