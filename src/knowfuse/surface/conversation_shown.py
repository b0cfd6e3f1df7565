"""How does a person see a conversation as an LLM reads it: template, messages, what is learnt, and what aligns with what?"""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from knowfuse.surface.conversations import chat_surface, in_tokens
from knowfuse.surface.cutting import Surface, surface_of
from knowfuse.surface.loading import load_tokenizer
from knowfuse.surface.shown import shown
from knowfuse.surface.templates import template_of
from knowfuse.surface.turns import learnt_rows, served_by
from knowfuse.text.conversations import Conversations
from knowfuse.text.document import Conversation, Document, Learn
from knowfuse.text.findings import Findings
from knowfuse.text.formats import texts_in
from knowfuse.types import TokenizedDocument

TEMPLATE, MESSAGE, LEARNT, END = "dim", "default", "green", "bold magenta"
KEY = Text.assemble(
    ("template", TEMPLATE), "  ", ("message", MESSAGE), "  ", ("learnt", LEARNT), "  ", ("end of the turn", END)
)


def first_conversation(file: Path, learn: Learn) -> Document:
    """Of a file; ValueError where it has none, or a line that cannot be read before it."""
    findings = Findings()
    found = next((c for c in texts_in(file, Conversations(), True, findings) if isinstance(c, Conversation)), None)
    findings.require_no_faults()
    assert found is not None, "a file without one is a fault"
    return Document(found.text, "shown", "test", messages=found.messages, learn=learn)


def surface_of_chats(name: str, chat_template: str | None) -> Surface:
    """Of a tokenizer's own template, or of the one that is given where it has none; ValueError where there is neither."""
    tokenizer = load_tokenizer(name)
    asked = None if tokenizer.chat_template else chat_template
    return chat_surface(surface_of(tokenizer, name), tokenizer, template_of(tokenizer, name, asked, None))


def show_conversation(console: Console, surfaces: list[Surface], document: Document) -> bool:
    """Print it as each LLM reads it, token by token; of the second on with the row of the first that serves each learnt row.

    Whether all can read it.
    """
    console.print(KEY)
    first: tuple[Surface, TokenizedDocument] | None = None
    could = []
    for surface in surfaces:
        (tokens,) = in_tokens(surface, [document])
        end = "none" if surface.eos_id is None else repr(surface.token_strings[surface.eos_id])
        console.print(Text(f"\n{surface.name}: an answer ends with {end}"))
        could.append(isinstance(tokens, TokenizedDocument))
        if not isinstance(tokens, TokenizedDocument):
            console.print(Text(f"  set aside: {tokens}"))
            continue
        served = {} if first is None else served_by(tokens, first[1].input_ids, first[1].ends, first[0].marks)
        console.print(
            _told(surface, tokens, document.text.encode(), served, is_numbered=len(surfaces) > 1 and first is None)
        )
        first = first or (surface, tokens)
    return all(could)


def _told(surface: Surface, tokens: TokenizedDocument, data: bytes, served: dict[int, int], is_numbered: bool) -> Text:
    is_text, is_end = learnt_rows(tokens)
    told, begin = Text(), 0
    for n, (i, end) in enumerate(zip(tokens.input_ids.tolist(), tokens.ends.tolist(), strict=True)):
        style = TEMPLATE if end == begin else MESSAGE
        if n and (is_text[n - 1] or is_end[n - 1]):
            style = LEARNT if is_text[n - 1] else END
        spelled = data[begin:end] if end > begin else surface.token_bytes[i] or surface.token_strings[i].encode()
        told.append(shown(spelled), style)
        if (n - 1) in served or is_numbered:
            told.append(f"({served.get(n - 1, n)})", "cyan")
        told.append("|", "dim")
        begin = end
    return told
