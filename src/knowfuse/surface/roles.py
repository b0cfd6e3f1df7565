"""Which token begins a text, and which ends it?"""

from typing import Any

from transformers import PreTrainedTokenizerBase

from knowfuse.surface.families import SPACE_MARK
from knowfuse.types import OWN

MOST_SHOWN = 12


def ends_of_texts(
    tokenizer: PreTrainedTokenizerBase, name: str, bos: str | None, eos: str | None, rows: int | None
) -> tuple[int, int | None]:
    """The ids of BOS and of EOS (None: there is none), as a spec's `bos` and `eos` say.

    A tokenizer without a BOS begins texts with what ends them. ValueError for a text that is no special token, for ids
    that the LLM has no row for, and where there is nothing to begin with.
    """
    own: Any = tokenizer.eos_token_id
    eos_id = own if eos == OWN else _special_id(tokenizer, name, "eos", eos)
    own_bos: Any = tokenizer.bos_token_id
    bos_id = own_bos if bos == OWN else _special_id(tokenizer, name, "bos", bos)
    if bos_id is None:
        bos_id = own if eos_id is None else eos_id
    if bos_id is None:
        raise ValueError(
            f"tokenizer {name!r} has neither BOS nor EOS: no row could predict a document's first token; set `bos:` of this "
            "LLM to the special token that stood before each text when it was trained"
        )
    for role, i in (("bos", bos_id), ("eos", eos_id)):
        if rows is not None and i is not None and i >= rows:
            raise ValueError(
                f"LLM {name!r}: its {role.upper()} {tokenizer.convert_ids_to_tokens(i)!r} is token id {i}, but its model embeds "
                f"only the ids below {rows}: set its `{role}:` to one of those, or its `tokenizer:` to the one it was trained with"
            )
    return int(bos_id), None if eos_id is None else int(eos_id)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokens that can begin or end a text, by id: those with a role, and added ones but for runs of white space."""
    ids: dict[Any, Any] = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    added = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
    ids |= {text: i for text, i in added.items() if text.replace(SPACE_MARK, " ").strip()}
    return dict(sorted(ids.items(), key=lambda item: item[1]))


def shown(tokens: list[str]) -> str:
    """The first of these, and how many more there are."""
    more = f" and {len(tokens) - MOST_SHOWN} more" if len(tokens) > MOST_SHOWN else ""
    return f"{', '.join(map(repr, tokens[:MOST_SHOWN]))}{more}"


def _special_id(tokenizer: PreTrainedTokenizerBase, name: str, role: str, text: str | None) -> int | None:
    if text is None:
        return None
    known = special_tokens(tokenizer)
    if text not in known:
        wrong = (
            "a piece of text, which documents hold" if text in tokenizer.get_vocab() else "no token of its vocabulary"
        )
        raise ValueError(
            f"tokenizer {name!r}: {role} {text!r} is {wrong}: give one of its special tokens "
            f"({shown(list(known)) or 'it has none'}), or {OWN} for the tokenizer's own"
        )
    return known[text]
