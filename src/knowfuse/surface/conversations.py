"""What is a conversation in the tokens of one LLM? Its own template, cut as it cuts it, with ends in the contents.

The pieces of the template are tokens of zero bytes, as BOS and EOS are. A message begins and ends where a token does, but for a
space before it that its first token takes along, as that of a text may; a conversation in which a token is partly message and
partly template is set aside, as one whose text spells a special token, which the LLM would take for one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from knowfuse.surface.cutting import Chat, Surface
from knowfuse.surface.shown import shown
from knowfuse.surface.spelling import first_difference, lengths_of, words_as_in
from knowfuse.surface.templates import Template
from knowfuse.surface.turns import turns_of
from knowfuse.surface.unspellable import UnspellableDocument
from knowfuse.text.document import Document, Message, learnt_spans
from knowfuse.types import TokenizedDocument

SPACE = b" "
PROBE = (Message("user", 1), Message("assistant", 1))


def chat_surface(surface: Surface, tokenizer: PreTrainedTokenizerBase, template: Template) -> Surface:
    """The surface of an LLM that reads conversations: its EOS is the token that ends an answer.

    ValueError where its template cannot write a question and an answer, or no row predicts the answer's first token.
    """
    probing = replace(surface, chat=Chat(template), eos_id=None)
    (cut,) = cut_conversations(probing, [Document("ab", "probe", "test", messages=PROBE)], is_probe=True)
    if isinstance(cut, UnspellableDocument):
        raise ValueError(
            f"LLM {surface.name!r} cannot read a question and an answer, of one letter each, in its chat template: {cut}. Set its "
            "chat_template to a file of Jinja that it can read, or to plain"
        )
    last = int(np.searchsorted(cut.ends, 2))  # the token of the answer
    spelled = surface.token_bytes[cut.input_ids[last]]
    takes_space = spelled == SPACE + b"b" or surface.token_bytes[cut.input_ids[last - 1]] == SPACE
    ends = [i for i in cut.input_ids[last + 1 :].tolist() if surface.token_bytes[i] is None]
    return replace(surface, chat=Chat(template, SPACE if takes_space else b""), eos_id=ends[0] if ends else None)


def in_tokens(surface: Surface, documents: Sequence[Document]) -> list[TokenizedDocument | UnspellableDocument]:
    """Documents in the tokens of an LLM, conversations with the turns that are learnt; why one cannot be."""
    if surface.chat is None:
        return surface.tokenize_all([(d.text, d.is_complete) for d in documents])
    found = cut_conversations(surface, documents)
    for document, cut in zip(documents, found, strict=True):
        if isinstance(cut, TokenizedDocument):
            spans = learnt_spans(document.messages, document.learn, document.prompt_bytes)
            cut.turns = turns_of(cut.input_ids, cut.ends, spans, surface.marks)
    return found


def cut_conversations(
    surface: Surface, documents: Sequence[Document], is_probe: bool = False
) -> list[TokenizedDocument | UnspellableDocument]:
    """Conversations in the tokens of the LLM; why one cannot be. A probe may have a space before a message that nobody knows of."""
    found: list[TokenizedDocument | UnspellableDocument | None] = [None] * len(documents)
    written: dict[int, tuple[str, list[int]]] = {}
    assert surface.chat is not None, "a conversation, and a surface without a template"
    for n, document in enumerate(documents):
        try:
            written[n] = surface.chat.template.written([m.role for m in document.messages], document.contents)
        except UnspellableDocument as reason:
            found[n] = reason
    with _taking_special(surface.tokenizer) as tokenizer:
        cut = tokenizer.encode_batch_fast([text for text, _ in written.values()], add_special_tokens=False)
    for (n, (text, begins)), encoding in zip(written.items(), cut, strict=True):
        try:
            found[n] = _spelled(surface, documents[n], text, begins, encoding.ids, is_probe)
        except UnspellableDocument as reason:
            found[n] = reason
    return [each for each in found if each is not None]


@contextmanager
def _taking_special(tokenizer: Tokenizer) -> Iterator[Tokenizer]:
    """The tokenizer as the LLM's own: what spells a special token is one."""
    tokenizer.encode_special_tokens = False
    try:
        yield tokenizer
    finally:
        tokenizer.encode_special_tokens = True


def _spelled(
    surface: Surface, document: Document, text: str, begins: Sequence[int], ids: list[int], is_probe: bool
) -> TokenizedDocument:
    data, input_ids = text.encode(), np.array(ids, dtype=np.int64)
    is_special = surface.is_special[input_ids]
    ends = np.zeros(len(ids) + 1, dtype=np.int64)  # in what was written; token n is [ends[n], ends[n + 1])
    np.cumsum(_lengths(surface, data, ids, is_special), out=ends[1:])
    starts = np.array(begins) if text.isascii() else np.array([len(text[:at].encode()) for at in begins])
    sizes = np.array([message.num_bytes for message in document.messages])
    starts, sizes = starts[sizes > 0], sizes[sizes > 0]  # an empty system prompt is template and nothing else
    stops = starts + sizes
    if not is_probe:
        _require_boundaries(surface, data, ids, is_special, ends, starts, stops)
    contents = np.cumsum(sizes)  # bytes of all contents up to the end of each message
    before = np.concatenate([[0], contents[:-1]])
    inside = np.interp(ends[1:], np.stack([starts, stops], -1).ravel(), np.stack([before, contents], -1).ravel())
    return TokenizedDocument(input_ids, inside.astype(np.int64))


def _lengths(surface: Surface, data: bytes, ids: list[int], is_special: Bool[np.ndarray, " T"]) -> Sequence[int]:
    """Bytes of what was written that each token takes; UnspellableDocument where they do not spell it."""
    pieces = [surface.written_bytes[i] for i in ids]
    if surface.family == "wordpiece":
        pieces = words_as_in(data, pieces)
    is_added = [special or i in surface.added_ids for i, special in zip(ids, is_special.tolist(), strict=True)]
    lengths = lengths_of(pieces, data, surface.prefix, is_added, surface.takes(ids))
    if lengths is None:
        spelled = first_difference(b"".join(pieces), data)
        raise UnspellableDocument(f"tokenizer {surface.name!r} spells {spelled} of the conversation in its template")
    return lengths


def _require_boundaries(
    surface: Surface,
    data: bytes,
    ids: list[int],
    is_special: Bool[np.ndarray, " T"],
    ends: Int[np.ndarray, " boundaries"],
    starts: Int[np.ndarray, " M"],
    stops: Int[np.ndarray, " M"],
) -> None:
    """UnspellableDocument unless every message, but for a space before it, is whole tokens that are text."""
    begins = starts
    if surface.lead:
        begins = starts - [data[at - 1 : at] == surface.lead for at in starts.tolist()]
    edges = np.concatenate([begins, stops])
    tokens = np.searchsorted(ends, edges)
    if len(partly := tokens[ends[tokens] != edges]):
        piece = shown(data[ends[partly[0] - 1] : ends[partly[0]]])
        raise UnspellableDocument(f"token {piece!r} of {surface.name!r} is partly its chat template, partly a message")
    if begins[0] == 0:
        raise UnspellableDocument(f"no token of {surface.name!r} stands before the first message in its chat template")
    for first, last in tokens.reshape(2, -1).T.tolist():
        if len(inside := np.flatnonzero(is_special[first:last])):
            token = surface.token_strings[ids[first + int(inside[0])]]
            raise UnspellableDocument(f"a message spells {token!r}, which {surface.name!r} takes for a special token")
