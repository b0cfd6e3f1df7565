"""Which texts are in a data set of the hub? With its own splits."""

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from knowfuse.text.corpus import Corpus, Texts, build_corpus
from knowfuse.text.document import RawDocument, Split


def hub_dataset(
    path: str,
    max_document_bytes: int,
    text_field: str = "text",
    train_split: str = "train",
    validation_split: str = "validation",
    test_split: str = "test",
    domain: str = "text",
    revision: str | None = None,
    cache: str | None = None,
) -> Corpus:
    """A text data set of the hub (or a local folder like one), with its own splits; needs `pip install datasets`."""
    sides: dict[Split, str] = {"test": test_split, "validation": validation_split, "fusion": train_split}
    texts = _Rows(path, revision, sides, text_field, domain)
    corpus = build_corpus(path, texts, {}, max_document_bytes, Path(cache) if cache else None)
    return corpus.require({"fusion": 1, "validation": 1, "test": 1})


class _Rows(Texts):
    def __init__(self, path: str, revision: str | None, sides: dict[Split, str], text_field: str, domain: str) -> None:
        super().__init__()
        self.path, self.revision, self.sides, self.text_field, self.domain = path, revision, sides, text_field, domain

    @property
    def key(self) -> str:
        prints = {split: rows._fingerprint for split, rows in self._opened.items()}
        return hashlib.sha256(json.dumps([prints, self.text_field, self.domain]).encode()).hexdigest()

    def __iter__(self) -> Iterator[RawDocument]:
        for split, rows in self._opened.items():
            for text in rows[self.text_field]:
                yield RawDocument(text, self.domain, split)

    @cached_property
    def _opened(self) -> dict[Split, Any]:
        """Each side's rows. ValueError where the package or the field is missing."""
        if importlib.util.find_spec("datasets") is None:
            raise ValueError(
                f"data set {self.path!r} is read with the datasets package, which is not installed: pip install datasets"
            )
        import datasets

        opened: dict[Split, Any] = {}
        for split, name in self.sides.items():
            rows = opened[split] = datasets.load_dataset(self.path, split=name, revision=self.revision)
            if self.text_field not in rows.column_names:
                raise ValueError(
                    f"data set {self.path!r} has no field {self.text_field!r}, it has {rows.column_names}: set "
                    "corpus.text_field to one"
                )
        return opened
