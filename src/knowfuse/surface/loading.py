"""How is a tokenizer loaded, so that it cuts a text as the LLM was trained? What its tokenizer.json says wins.

Some classes of transformers build their pre-tokenizer or normaliser anew and drop the file's. Whether they do shows in the
hard texts and in those of the vocabulary's own tokens, cut by both. A `tokenizer_config.json` may add special tokens, which no text is cut at; where it makes
others of the tokens that a text is cut at, nobody can say which the LLM saw, and the tokenizer is refused.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from knowfuse.screen import say
from knowfuse.surface.hard_texts import HARD_TEXTS

FILE = "tokenizer.json"
SPELLED = 1000  # tokens of the vocabulary whose texts are cut
OF_ROLES = "text like special tokens"  # of what is special the tokenizer's roles decide, the file alone cannot know


def load_tokenizer(place: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The transformers tokenizer of a hub id, a folder, a tokenizer.json or a GGUF file, which cuts as its tokenizer.json.

    A line says so where the class that transformers would take cuts otherwise. ValueError where no class of it cuts as
    the file; what transformers itself raises over files that cannot be read passes.
    """
    path = Path(place).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if path.is_file():
        if path.name != FILE or not path.with_name("tokenizer_config.json").exists():
            return PreTrainedTokenizerFast(tokenizer_file=str(path))
        path = path.parent
    where = str(path) if path.is_dir() else str(place)
    chosen = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
    if (file := _file_of(where)) is None:
        return chosen
    of_file = Tokenizer.from_file(str(file))
    _require_its_ids(of_file, file)
    if (text := cut_otherwise(chosen, of_file)) is None:
        return chosen
    kept = PreTrainedTokenizerFast.from_pretrained(where)
    if (still := cut_otherwise(kept, of_file)) is not None:
        raise ValueError(
            f"{file} cuts {still!r} otherwise than the tokenizer that transformers makes of its folder, whatever the class: its "
            "tokenizer_config.json has other added tokens. Make the two say the same: load it as it was trained, and save it"
        )
    say(
        f"tokenizer {where}: {type(chosen).__name__} of transformers cuts {text!r} otherwise than {FILE}; the file wins"
    )
    return kept


def reason(error: Exception) -> str:
    """What a library said, on one line."""
    said = (str(error).strip() or "no reason given").splitlines()[0].strip()
    if said.startswith("Couldn't instantiate the backend tokenizer"):  # a list of three ways to have one follows
        said = "there is no tokenizer.json, nor another file that one is made of"
    return f"{type(error).__name__}: {said}"


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, trust_remote_code: bool = False) -> None:
    """Save it beside its model, so that it is read as it cuts here.

    ValueError where the tokenizer.json does not say so. transformers takes the class that it has for some models, whatever
    the folder says (Qwen 2 and others): a line says where that one cuts otherwise, and how to read it.
    """
    tokenizer.save_pretrained(folder)
    if (text := cut_otherwise(tokenizer, Tokenizer.from_file(str(folder / FILE)))) is not None:
        raise ValueError(f"the tokenizer that was saved cuts {text!r} otherwise than {type(tokenizer).__name__}")
    read: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    its: Any = tokenizer
    if (text := cut_otherwise(read, its.backend_tokenizer)) is not None:
        say(
            f"the saved tokenizer: AutoTokenizer makes it a {type(read).__name__}, which cuts {text!r} otherwise than its {FILE}, "
            "by which it was trained: load it with transformers.PreTrainedTokenizerFast.from_pretrained"
        )


def cut_otherwise(tokenizer: PreTrainedTokenizerBase, of_file: Tokenizer) -> str | None:
    """The first text that they cut otherwise, where there is one.

    Of the hard texts, of what tokens of the file's vocabulary spell, and of texts with an added token that only one of
    the two knows so.
    """
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    texts = [text for name, text in HARD_TEXTS.items() if name != OF_ROLES]
    if backend is None:
        return texts[0]
    size = of_file.get_vocab_size()
    texts += of_file.decode_batch([[i] for i in range(0, size, -(-size // SPELLED))])
    texts += [f"a {token} b{token}" for token in _added_otherwise(backend, of_file)]
    with _only_cutting(backend), _only_cutting(of_file):
        cuts = [cut.encode_batch_fast(texts, add_special_tokens=False) for cut in (backend, of_file)]
    return next((text for text, one, other in zip(texts, *cuts, strict=True) if one.ids != other.ids), None)


def _added_otherwise(one: Tokenizer, other: Tokenizer) -> list[str]:
    """Added tokens that a text is cut at by one of the two, and not, or by other rules, by the other."""
    added = [
        {
            (t.content, t.lstrip, t.rstrip, t.single_word, t.normalized, t.special)
            for t in its.get_added_tokens_decoder().values()
        }
        for its in (one, other)
    ]
    return sorted({content for content, *_, special in added[0] ^ added[1] if not special})


def _require_its_ids(of_file: Tokenizer, file: Path) -> None:
    """ValueError where added tokens have other ids than the file gives them: the library numbers them on, over gaps."""
    for entry in _added_tokens(file.read_text(encoding="utf-8")):
        if (got := of_file.token_to_id(entry["content"])) != entry["id"]:
            raise ValueError(
                f"{file} gives its added token {entry['content']!r} the id {entry['id']}, and the tokenizers library makes it {got}: "
                "its ids have a gap, or two entries meet. Number them as the rows of the model are, without gaps"
            )


def _added_tokens(content: str) -> list[dict[str, Any]]:
    """Those of a tokenizer.json, whose vocabulary behind them takes most of a second to read."""
    key = '"added_tokens":'
    try:
        added, _ = json.JSONDecoder().raw_decode(content[content.index(key) + len(key) :].lstrip())
    except ValueError:
        added = None
    return added if isinstance(added, list) else json.loads(content).get("added_tokens", [])


@contextmanager
def _only_cutting(tokenizer: Tokenizer) -> Iterator[None]:
    """A tokenizer that neither truncates nor pads, and takes no text for a special token; as it was after the block."""
    truncation, padding, special = tokenizer.truncation, tokenizer.padding, tokenizer.encode_special_tokens
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    try:
        yield
    finally:
        tokenizer.encode_special_tokens = special
        if truncation is not None:
            tokenizer.enable_truncation(**truncation)
        if padding is not None:
            tokenizer.enable_padding(**padding)


def _file_of(place: str) -> Path | None:
    """The tokenizer.json of a folder, or of a hub id that was just loaded."""
    if Path(place).is_dir():
        file = Path(place) / FILE
        return file if file.is_file() else None
    found = cached_file(place, FILE, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None
