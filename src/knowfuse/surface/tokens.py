"""What are documents in the tokens of one tokenizer? Cut once, and kept in flat arrays that processes share."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from knowfuse.files import make_once, undamaged, whole_folder
from knowfuse.surface import Surface, UnspellableDocument
from knowfuse.text.corpus import Document
from knowfuse.types import TokenizedDocument

FORMAT_VERSION = 1
AT_ONCE = 512  # documents that are cut in one call


class TokenizedDocuments(Mapping[str, TokenizedDocument]):
    """Tokenised documents by id, and why those are not here that could not be: 8 bytes a token, in memory or in a file."""

    def __init__(
        self,
        rows: Mapping[str, int],  # document id -> its place among the offsets
        offsets: np.ndarray,
        ids: np.ndarray,
        ends: np.ndarray,
        set_aside: Mapping[str, str],
    ) -> None:
        self._rows, self.set_aside = dict(rows), dict(set_aside)
        self._offsets, self._ids, self._ends = offsets, ids, ends  # int64 [D + 1], int32 [N], int32 [N]

    def __getitem__(self, document_id: str) -> TokenizedDocument:
        row = self._rows[document_id]
        place = slice(int(self._offsets[row]), int(self._offsets[row + 1]))
        return TokenizedDocument(self._ids[place].astype(np.int64), self._ends[place].astype(np.int64))

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of each document."""
        lengths = np.diff(self._offsets)
        return {name: int(lengths[row]) for name, row in self._rows.items()}

    @property
    def largest_id(self) -> int:
        """The largest token id that occurs, in these documents or in those that were too long; -1 where no token does."""
        return int(self._ids.max(initial=-1))

    def up_to(self, max_tokens: int, name: str) -> "TokenizedDocuments":
        """Those of at most so many tokens, which is what LLM `name` can hold; the others are set aside."""
        lengths = self.lengths
        long = {d: f"{n} tokens, {name!r} can hold {max_tokens}" for d, n in lengths.items() if n > max_tokens}
        rows = {d: row for d, row in self._rows.items() if d not in long}
        return TokenizedDocuments(rows, self._offsets, self._ids, self._ends, self.set_aside | long)


def tokenize_documents(
    surface: Surface,
    documents: Sequence[Document],
    max_tokens: int,
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda documents: None,
) -> TokenizedDocuments:
    """The documents that this tokenizer spells byte by byte in at most `max_tokens` tokens.

    With a `folder` they are cut once per tokenizer and set of documents, by one process, and mapped from there by all.
    `advance` is told how many documents were cut.
    """
    if folder is None:
        return _in_memory(surface, documents, advance).up_to(max_tokens, surface.name)
    digest = hashlib.sha256(f"{FORMAT_VERSION} {surface.fingerprint}".encode())
    for document in documents:
        digest.update(document.id.encode())
    place = folder / f"{surface.name}-{digest.hexdigest()[:24]}"
    make_once(place, lambda: _write(place, surface, documents, advance))
    with undamaged(place):
        return _mapped(place).up_to(max_tokens, surface.name)


def _cut(
    surface: Surface, documents: Sequence[Document], advance: Callable[[int], None]
) -> Iterator[tuple[str, TokenizedDocument | str]]:
    """Each document's id, and its tokens or the reason why it has none."""
    rest = iter(documents)
    while some := list(islice(rest, AT_ONCE)):
        for document, cut in zip(some, surface.tokenize_all([(d.text, d.is_complete) for d in some]), strict=True):
            yield document.id, str(cut) if isinstance(cut, UnspellableDocument) else cut
        advance(len(some))


def _in_memory(surface: Surface, documents: Sequence[Document], advance: Callable[[int], None]) -> TokenizedDocuments:
    read: dict[str, TokenizedDocument] = {}
    set_aside: dict[str, str] = {}
    for name, cut in _cut(surface, documents, advance):
        if isinstance(cut, str):
            set_aside[name] = cut
        else:
            read[name] = cut
    nothing = np.empty(0, dtype=np.int32)
    return TokenizedDocuments(
        {name: row for row, name in enumerate(read)},
        np.cumsum([0, *(len(t.input_ids) for t in read.values())], dtype=np.int64),
        np.concatenate([nothing, *(t.input_ids.astype(np.int32) for t in read.values())]),
        np.concatenate([nothing, *(t.ends.astype(np.int32) for t in read.values())]),
        set_aside,
    )


def _write(place: Path, surface: Surface, documents: Sequence[Document], advance: Callable[[int], None]) -> None:
    """The arrays as they grow, never all in memory."""
    names, offsets, set_aside = [], [0], {}
    with whole_folder(place) as folder:
        with (folder / "ids.bin").open("wb") as ids, (folder / "ends.bin").open("wb") as ends:
            for name, cut in _cut(surface, documents, advance):
                if isinstance(cut, str):
                    set_aside[name] = cut
                    continue
                names.append(name)
                offsets.append(offsets[-1] + len(cut.input_ids))
                ids.write(cut.input_ids.astype("<i4").tobytes())
                ends.write(cut.ends.astype("<i4").tobytes())
        about = {"names": names, "offsets": offsets, "set_aside": set_aside}
        (folder / "documents.json").write_text(json.dumps(about), encoding="utf-8")


def _mapped(place: Path) -> TokenizedDocuments:
    about = json.loads((place / "documents.json").read_text(encoding="utf-8"))
    offsets = np.asarray(about["offsets"], dtype=np.int64)
    ids, ends = (_map(place / file, int(offsets[-1])) for file in ("ids.bin", "ends.bin"))
    rows = {name: row for row, name in enumerate(about["names"])}
    return TokenizedDocuments(rows, offsets, ids, ends, about["set_aside"])


def _map(file: Path, tokens: int) -> np.ndarray:
    if (size := file.stat().st_size) != 4 * tokens:
        raise EOFError(f"{file.name} has {size} bytes, {tokens} tokens take {4 * tokens}")
    return np.memmap(file, "<i4", "r") if tokens else np.empty(0, dtype=np.int32)  # nothing cannot be mapped
