"""Which text tunes a specialist, and which text do all fuse on? Two files a domain that share no text, for `benchmarks/specialists.py`."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from knowfuse.files import write_whole
from knowfuse.text.corpus import Corpus
from knowfuse.text.held_out import held_out
from knowfuse.text.mixture import text_files

WHOLE = 2**30  # bytes of a text, none is cut


def texts_of(files: Mapping[str, list[str]], fields: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The whole texts of the user's files by domain; ValueError as `data=text_files` raises it."""
    found = held_out(dict(files), WHOLE, dict(fields))
    return {domain: [d.text for d in found.split("test", domain=domain)] for domain in files}


def quickstart_texts(corpus: Corpus) -> dict[str, list[str]]:
    """The pieces of text of the quickstart, whatever side they are on."""
    return {domain: [d.text for d in corpus.documents if d.domain == domain] for domain in corpus.domains}


def split_texts(
    texts: Mapping[str, Iterable[str]], folder: Path, fusion_bytes: int, specialist_bytes: int
) -> dict[str, dict[str, str]]:
    """`fusion` and `specialist`, each the file of every domain; each text is in one of them, or is left over.

    Drawn by a hash of the text, another than the one that decides its split: the fusion side, its validation and test with it, is filled first. ValueError where a domain
    has too little text for both.
    """
    files: dict[str, dict[str, str]] = {"fusion": {}, "specialist": {}}
    for domain, every in texts.items():
        drawn = iter(sorted(set(every), key=lambda text: hashlib.blake2b(text.encode()).digest()))
        for side, size in (("fusion", fusion_bytes), ("specialist", specialist_bytes)):
            chosen = list(_filling(drawn, size))
            if (got := sum(len(text.encode()) for text in chosen)) < size:
                raise ValueError(
                    f"domain {domain!r} has {got:,} bytes of text for its {side} side, {size:,} are asked for: give it more files, or "
                    f"a smaller --{side}-bytes"
                )
            path = folder / f"{domain}-{side}.jsonl"
            write_whole(path, "".join(json.dumps({"text": text}) + "\n" for text in chosen).encode())
            files[side][domain] = str(path)
    return files


def _filling(texts: Iterator[str], size: int) -> Iterator[str]:
    """The next of these, until they have so many bytes."""
    while size > 0 and (text := next(texts, None)) is not None:
        size -= len(text.encode())
        yield text


def tuning_corpus(
    files: Mapping[str, str], domains: Iterable[str], name: str, fusion: Corpus, max_document_bytes: int, cache: Path
) -> Corpus:
    """The specialist's text of these domains as one, with a twentieth to validate; no piece of it is in the fusion text."""
    listed = {name: [files[domain] for domain in domains]}
    corpus = text_files(listed, max_document_bytes, cache=str(cache))
    never = {document.id for document in fusion.documents}
    return Corpus.of(name, [document for document in corpus.documents if document.id not in never])
