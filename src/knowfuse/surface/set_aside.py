"""What is said of the documents that an LLM cannot read?"""

from collections.abc import Mapping
from typing import Literal

from knowfuse.ids import IdIndex, hex_names, id_array
from knowfuse.screen import say
from knowfuse.surface import Surface
from knowfuse.surface.unspellable import by_kind
from knowfuse.text.documents import Documents


def report_set_aside(
    role: Literal["source", "target"],
    surface: Surface,
    reasons: Mapping[str, str],
    documents: Documents,
    what: str = "documents",
) -> None:
    """One line on the documents that an LLM cannot read, counted by kind of reason where there are several; `what` they are.

    ValueError where it can read none of them.
    """
    aside = hex_names(documents.ids[IdIndex(id_array(reasons)).places(documents.ids) >= 0]) if reasons else []
    if not aside:
        return
    changes = f"; its tokenizer normalises: {', '.join(surface.normalises)}" if surface.normalises else ""
    kinds = by_kind(reasons[each] for each in aside)
    counted = f"{', '.join(f'{number} {kind}' for kind, number in kinds.items())}; " if len(kinds) > 1 else ""
    first = f"{counted}the first, {aside[0]}: {reasons[aside[0]]}{changes}"
    if len(aside) == len(documents):
        other = "Leave it out of `sources`" if role == "source" else "Set target= to another LLM"
        remedy = (
            "set its `chat_template:` to one that keeps the conversations as they are, or give shorter ones where they are too long"
            if documents.is_chat
            else "set its `tokenizer:` to one that keeps every byte, or cut the documents shorter (corpus.max_document_bytes)"
        )
        raise ValueError(
            f"{role} {surface.name!r} can read none of the {len(documents)} {what}; {first}. {other}, {remedy}"
        )
    begins = "traces" if role == "source" else "target"
    share = len(aside) / len(documents)
    say(f"{begins} {surface.name}: {len(aside)} of {len(documents)} {what} ({share:.1%}) set aside; {first}")
