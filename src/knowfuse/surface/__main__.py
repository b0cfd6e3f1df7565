"""What does knowfuse know of a tokenizer, and does it recover every byte?

python -m knowfuse.surface TOKENIZER [TOKENIZER ...]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from knowfuse.surface.cutting import Surface, surface_of
from knowfuse.surface.hard_texts import HARD_TEXTS, LONE_SURROGATE, refuses_lone_surrogate, unrecovered


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every tokenizer was read and every byte of the hard texts recovered, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m knowfuse.surface",
        description="What each tokenizer is, and whether its tokens give back every byte of a set of hard texts.",
    )
    parser.add_argument(
        "tokenizers", nargs="+", metavar="TOKENIZER", help="hub id, folder, tokenizer.json or .gguf file"
    )
    parser.add_argument("--bos", help="BOS of a tokenizer.json that has no tokenizer_config.json beside it")
    parser.add_argument("--eos", help="EOS of the same")
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    worked = [_report(name, options.bos, options.eos) for name in options.tokenizers]
    return 0 if all(worked) else 1


def load(name: str, bos: str | None = None, eos: str | None = None) -> PreTrainedTokenizerBase:
    """The transformers tokenizer of a hub id, a folder, a tokenizer.json or a GGUF file."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if path.is_file():
        if path.name == "tokenizer.json" and path.with_name("tokenizer_config.json").exists():
            return AutoTokenizer.from_pretrained(path.parent)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
        for role, token in (("bos_token", bos), ("eos_token", eos)):
            if token is not None and token not in tokenizer.get_vocab():
                raise ValueError(f"it has no token {token!r}")
            setattr(tokenizer, role, token)
        return tokenizer
    return AutoTokenizer.from_pretrained(path if path.is_dir() else name)


def _report(name: str, bos: str | None, eos: str | None) -> bool:
    try:
        tokenizer = load(name, bos, eos)
    except Exception as error:  # each library below raises its own; the next tokenizer is still checked
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        print(f"{name}: cannot be loaded ({type(error).__name__}: {reason})", file=sys.stderr)
        return False
    try:
        surface = surface_of(tokenizer, name)
    except ValueError as error:
        print(error, file=sys.stderr)
        return False
    lost, refuses = unrecovered(surface), refuses_lone_surrogate(surface)
    print(name)
    for label, value in _facts(tokenizer, surface):
        print(f"  {label:<15} {value}")
    print(f"  {'bytes':<15} recovered in {len(HARD_TEXTS) - len(lost)} of {len(HARD_TEXTS)} hard texts")
    for text, reason in lost.items():
        print(f"    lost in {text}: {reason.removeprefix(f'tokenizer {name!r} ')}\n      {HARD_TEXTS[text]!a}")
    print(f"  {'lone surrogate':<15} {'refused' if refuses else f'not refused in {LONE_SURROGATE!r}'}")
    return not lost and refuses


def _facts(tokenizer: PreTrainedTokenizerBase, surface: Surface) -> list[tuple[str, str]]:
    in_place = " in place of BOS" if tokenizer.bos_token_id is None else ""
    roles = [
        f"{role} {getattr(tokenizer, f'{key}_token_id')} {getattr(tokenizer, f'{key}_token')!r}{more}"
        for role, key, more in (
            ("BOS", "bos", ""),
            ("EOS", "eos", in_place),
            ("unknown", "unk", ""),
            ("padding", "pad", ""),
        )
        if getattr(tokenizer, f"{key}_token_id") is not None
    ]
    return [
        ("family", f"{surface.family} ({type(surface.tokenizer.model).__name__})"),
        ("vocabulary", f"{surface.vocabulary_size} ids, {sum(b is None for b in surface.token_bytes)} without bytes"),
        ("normalises", ", ".join(surface.normalises) or "nothing"),
        ("dummy prefix", "a space before a text" if surface.prefix else "none"),
        ("special roles", ", ".join(roles)),
    ]


if __name__ == "__main__":
    sys.exit(main())
