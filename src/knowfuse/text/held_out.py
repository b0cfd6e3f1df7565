"""Which texts, beside those of its own corpus, is a target asked about? Text of no training domain, or what it must not forget."""

from pathlib import Path
from typing import Any

from knowfuse.text.corpus import Corpus, build_corpus
from knowfuse.text.documents import Documents
from knowfuse.text.mixture import Mixture
from knowfuse.text.text_files import domains_of_files


def held_out(
    files: Any,
    max_document_bytes: int,
    text_field: Any = "text",
    cache: str | None = None,
    never: Documents | None = None,
) -> Corpus:
    """All texts of these files as documents of the split "test"; `files` maps a domain to names and patterns.

    ValueError as `text_files` raises it, for a domain without a text, and where a document is one of `never`.
    """
    place = Path(cache) if cache else None
    domains = domains_of_files(files, text_field)
    texts = Mixture(domains, {"test": 1.0}, None, "bytes", None, place / "checksums" if place else None)
    corpus = build_corpus("held-out text", texts, {"test": 1.0}, max_document_bytes, place)
    if empty := [each.domain for each in domains if not corpus.count("test", each.domain)]:
        raise ValueError(
            f"corpus.files.{empty[0]} has no text that is not elsewhere too: give it another file, or leave it out"
        )
    if never is not None and (both := set(never.names) & set(corpus.documents.names)):
        raise ValueError(
            f"corpus.files has {len(both)} documents that the run was trained on, so nothing is held out: give other text, or "
            "other files"
        )
    return corpus
