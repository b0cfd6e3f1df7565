"""How does one LLM write a conversation out, and where in it are the contents of the messages?

Its template is run twice: on the conversation, and on marks in place of the contents. What stands between the marks is the
template's; where contents and pieces together are not what it wrote, it has changed a message: the conversation is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from knowfuse.surface.unspellable import UnspellableDocument
from knowfuse.text.document import Role

PLAIN = "plain"
# For an LLM that never learnt a template: only tokens that every tokenizer has, and none that a message could run into.
PLAIN_TEMPLATE = """{{ bos_token or eos_token }}{% for message in messages %}{{ message['role'] }}:
{{ message['content'] }}{{ eos_token }}
{% endfor %}{% if add_generation_prompt %}assistant:
{% endif %}"""
# A template that writes today's date would write another tomorrow, and a trace is kept: the day that Llama 3's falls back to.
DAY = {"%d %b %Y": "26 Jul 2024", "%d %B %Y": "26 July 2024", "%B %d, %Y": "July 26, 2024", "%Y-%m-%d": "2024-07-26"}


@dataclass(frozen=True)
class Template:
    """A template in Jinja, and the variables that it may ask for: texts of special tokens, and a user's own."""

    source: str
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> list[Any]:
        """Everything that decides what it writes."""
        return [self.source, dict(sorted(self.variables.items()))]

    def written(self, roles: Sequence[Role], contents: Sequence[str]) -> tuple[str, list[int]]:
        """The conversation as the LLM reads it, and at which character each content begins.

        UnspellableDocument where the template refuses it, or writes a content otherwise than it is.
        """
        whole = self._render(roles, contents)
        pieces = self._pieces(tuple(roles))
        begins, at = [], 0
        for piece, content in zip(pieces, contents, strict=False):
            begins.append(at + len(piece))
            at = begins[-1] + len(content)
        together = "".join(part for both in zip(pieces, contents, strict=False) for part in both) + pieces[-1]
        if together != whole:
            raise UnspellableDocument(self._changed(whole, roles, contents))
        return whole, begins

    def _changed(self, whole: str, roles: Sequence[Role], contents: Sequence[str]) -> str:
        """What it did to the first message that it changed, or to empty ones."""
        said = [(role, content) for role, content in zip(roles, contents, strict=True) if content]
        if len(said) < len(contents) and self._render(*zip(*said, strict=True)) == whole:
            return "its chat template takes an empty system prompt for none"
        for number, content in enumerate(contents, 1):
            if content not in whole:
                trims = content.strip() in whole and content != content.strip()
                what = "drops the white space around" if trims else "changes the text of"
                return f"its chat template {what} message {number}"
        return "its chat template writes otherwise around these messages than around others of the same roles"

    def _pieces(self, roles: tuple[Role, ...]) -> list[str]:
        """What stands before, between and after the messages of these roles."""
        if roles not in self._known:
            marks = [f"\ue000{n}\ue001" for n in range(len(roles))]
            whole = self._render(roles, marks)
            places = [whole.find(mark) for mark in marks]
            if lost := [role for role, place in zip(roles, places, strict=True) if place < 0]:
                raise UnspellableDocument(f"its chat template leaves out a message of the {lost[0]}")
            if any(a > b for a, b in pairwise(places)) or any(whole.count(mark) > 1 for mark in marks):
                raise UnspellableDocument("its chat template repeats messages, or writes them in another order")
            ends = [place + len(mark) for place, mark in zip(places, marks, strict=True)]
            starts = [0, *ends]
            self._known[roles] = [whole[a:b] for a, b in zip(starts, [*places, len(whole)], strict=True)]
        return self._known[roles]

    @cached_property
    def _known(self) -> dict[tuple[Role, ...], list[str]]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "variables": self.variables}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @cached_property
    def _of_one_day(self) -> str:
        """The source, in which what asks for today gets a fixed day."""
        if "strftime_now" not in self.source:
            return self.source
        days = "".join(f"{{% elif format == {f!r} %}}{day}" for f, day in DAY.items())
        days = f"{{% if false %}}{days}{{% else %}}{DAY['%d %b %Y']}{{% endif %}}"
        return f"{{% macro strftime_now(format) %}}{days}{{% endmacro %}}{self.source}"

    def _render(self, roles: Sequence[Role], contents: Sequence[str]) -> str:
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            (written,), _ = render_jinja_template([messages], chat_template=self._of_one_day, **self.variables)
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            said = " ".join(str(error).split())
            does = "refuses" if type(error) is TemplateError else "fails on"  # as raise_exception does, or otherwise
            raise UnspellableDocument(f"its chat template {does} {_told(roles)}: {said}") from error
        return written


def _told(roles: Sequence[Role]) -> str:
    shown = ", ".join(roles[:4])
    return f"a conversation of {shown}{', ...' if len(roles) > 4 else ''}"


def template_of(
    tokenizer: PreTrainedTokenizerBase, name: str, asked: str | None, variables: Mapping[str, Any] | None
) -> Template:
    """The template that a spec asks for: of a file, the plain one, or the tokenizer's own.

    ValueError where there is none, and for a file that is not there or no Jinja.
    """
    if asked == PLAIN:
        source = PLAIN_TEMPLATE
    elif asked is not None:
        path = Path(asked).expanduser()
        if not path.is_file():
            raise ValueError(
                f"LLM {name!r}: chat_template is {asked!r}, and there is no such file: give a file of Jinja, or {PLAIN}"
            )
        source = path.read_text(encoding="utf-8")
    elif tokenizer.chat_template:
        source = tokenizer.get_chat_template()
    else:
        raise ValueError(
            f"LLM {name!r}: its tokenizer has no chat template, and data=chat needs one: write chat_template: {PLAIN} beside its path, for "
            "an LLM that never learnt one, or the file of Jinja that it learnt"
        )
    special = {role: token for role, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return Template(source, {**special, **(variables or {})})
