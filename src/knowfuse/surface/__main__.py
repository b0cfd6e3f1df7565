"""What does knowfuse know of a tokenizer, and does it recover every byte?

python -m knowfuse.surface TOKENIZER [TOKENIZER ...]
python -m knowfuse.surface TOKENIZER [TOKENIZER ...] --chat FILE
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from knowfuse.screen import to_a_reader
from knowfuse.surface.conversation_shown import first_conversation, show_conversation, surface_of_chats
from knowfuse.surface.cutting import Surface, surface_of
from knowfuse.surface.hard_texts import HARD_TEXTS, LONE_SURROGATE, refuses_lone_surrogate, unrecovered
from knowfuse.surface.loading import load_tokenizer, reason
from knowfuse.surface.roles import shown, special_tokens
from knowfuse.text.document import LEARN, Learn
from knowfuse.types import OWN


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every tokenizer was read and every byte of the hard texts recovered, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m knowfuse.surface",
        description="What each tokenizer is, and whether its tokens give back every byte of a set of hard texts.",
    )
    parser.add_argument(
        "tokenizers", nargs="+", metavar="TOKENIZER", help="hub id, folder, tokenizer.json or .gguf file"
    )
    parser.add_argument(
        "--bos", default=OWN, help="the token that begins a text, as `bos:` of an LLM (default: the tokenizer's)"
    )
    parser.add_argument("--eos", default=OWN, help="the token that ends it, as `eos:` of an LLM; null: none")
    parser.add_argument(
        "--chat",
        metavar="FILE",
        type=Path,
        help="show the first conversation of this .jsonl file as each LLM reads it, in colours",
    )
    parser.add_argument(
        "--learn", choices=LEARN, default="assistant", help="what is learnt of it (default: %(default)s)"
    )
    parser.add_argument("--chat-template", help="for a tokenizer without one: a file of Jinja, or plain")
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    if options.chat is not None:
        return _show(options.tokenizers, options.chat, options.learn, options.chat_template)
    eos = None if options.eos == "null" else options.eos
    worked = [_report(name, options.bos, eos) for name in options.tokenizers]
    return 0 if all(worked) else 1


def _show(names: Sequence[str], file: Path, learn: Learn, chat_template: str | None) -> int:
    try:
        document = first_conversation(file, learn)
        surfaces = [surface_of_chats(name, chat_template) for name in names]
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if show_conversation(Console(soft_wrap=True), surfaces, document) else 1


def _report(name: str, bos: str, eos: str | None) -> bool:
    try:
        tokenizer = load_tokenizer(name)
    except Exception as error:  # each library below raises its own; the next tokenizer is still checked
        print(f"{name}: cannot be loaded ({reason(error)})", file=sys.stderr)
        return False
    try:
        surface = surface_of(tokenizer, name, bos, eos)
    except ValueError as error:
        print(error, file=sys.stderr)
        return False
    lost, refuses = unrecovered(surface), refuses_lone_surrogate(surface)
    print(name)
    for label, value in _facts(tokenizer, surface):
        print(f"  {label:<15} {value}")
    print(f"  {'bytes':<15} recovered in {len(HARD_TEXTS) - len(lost)} of {len(HARD_TEXTS)} hard texts")
    for text, why in lost.items():
        print(f"    lost in {text}: {why.removeprefix(f'tokenizer {name!r} ')}\n      {HARD_TEXTS[text]!a}")
    print(f"  {'lone surrogate':<15} {'refused' if refuses else f'not refused in {LONE_SURROGATE!r}'}")
    return not lost and refuses


def _facts(tokenizer: PreTrainedTokenizerBase, surface: Surface) -> list[tuple[str, str]]:
    own = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    roles = [("BOS", surface.bos_id, own), ("EOS", surface.eos_id, tokenizer.eos_token_id)]
    roles += [(role, i, i) for role, i in (("unknown", tokenizer.unk_token_id), ("padding", tokenizer.pad_token_id))]
    said = [
        f"{role} {i} {tokenizer.convert_ids_to_tokens(i)!r}{'' if i == its else ' as asked'}"
        for role, i, its in roles
        if i is not None
    ]
    if surface.eos_id is None:
        said.insert(1, "no EOS")
    if surface.bos_id == surface.eos_id and tokenizer.bos_token_id is None:
        said = [f"{said[1]} in place of BOS", *said[2:]]
    special = list(special_tokens(tokenizer))
    return [
        ("family", f"{surface.family} ({type(surface.tokenizer.model).__name__})"),
        ("vocabulary", f"{surface.vocabulary_size} ids, {sum(b is None for b in surface.token_bytes)} without bytes"),
        ("normalises", ", ".join(surface.normalises) or "nothing"),
        ("dummy prefix", "a space before a text" if surface.prefix else "none"),
        ("special roles", ", ".join(said)),
        ("special tokens", shown(special)),
    ]


if __name__ == "__main__":
    with to_a_reader():
        sys.exit(main())
