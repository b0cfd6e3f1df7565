"""What are documents in the tokens of one tokenizer? Cut once, and kept in flat arrays that processes share.

A folder of tokens has `ids.bin`, `ends.bin` (int32, a number a token), `offsets.bin` (int64, where each document begins) and
`about.json`: how many there are, the largest id, and why a document has no tokens. Opening it maps the three and reads the
fourth: how many documents there are hardly matters.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from knowfuse.files import make_folder_once, mapped_array, undamaged
from knowfuse.ids import IdIndex, hex_names
from knowfuse.surface import Surface, UnspellableDocument
from knowfuse.surface.conversations import in_tokens
from knowfuse.surface.cutting import Marks
from knowfuse.surface.turns import turns_of
from knowfuse.text.document import Document, learnt_spans
from knowfuse.text.documents import Documents
from knowfuse.types import TokenizedDocument

FORMAT_VERSION = 2
AT_ONCE = 512  # documents that are cut in one call
ARRAYS = {"offsets": np.dtype("<i8"), "ids": np.dtype("<i4"), "ends": np.dtype("<i4")}


@dataclass
class About:
    """What is known of the tokens without looking at them."""

    documents: int = 0
    tokens: int = 0
    largest_id: int = -1
    unspelled: dict[str, str] = field(default_factory=dict)  # place of a document -> why it has no tokens
    marks: dict[str, Any] | None = None  # of conversations: by what their messages are found


class TokenizedDocuments(Mapping[str, TokenizedDocument]):
    """Documents in tokens, by their place or by id, and why those are not here that could not be.

    `max_tokens` is what the LLM `name` can hold; longer documents are set aside. `only`, bool [D], are those asked for.
    """

    def __init__(
        self,
        documents: Documents,
        arrays: Mapping[str, np.ndarray],
        about: About,
        max_tokens: int,
        name: str,
        folder: Path | None = None,
        only: np.ndarray | None = None,
    ) -> None:
        self.documents, self.about, self.max_tokens, self.name, self.folder = documents, about, max_tokens, name, folder
        self.only = only
        self._offsets, self._ids, self._ends = (arrays[key] for key in ARRAYS)

    def __reduce__(self) -> tuple[Callable[..., "TokenizedDocuments"], tuple[Any, ...]]:
        """Mapped tokens go to another process as their path."""
        if self.folder is not None:
            return _mapped, (self.folder, self.documents, self.max_tokens, self.name, self.only)
        arrays = dict(zip(ARRAYS, (self._offsets, self._ids, self._ends), strict=True))
        return TokenizedDocuments, (self.documents, arrays, self.about, self.max_tokens, self.name, None, self.only)

    def at(self, place: int) -> TokenizedDocument:
        """The tokens of the document at this place, which must be one of `places`."""
        rows = slice(int(self._offsets[place]), int(self._offsets[place + 1]))
        begun = self.documents.prompt_bytes(place)
        ids, ends = (part[rows].astype(np.int64) for part in (self._ids, self._ends))
        tokens = TokenizedDocument(ids, ends, prompt_bytes=begun)
        if self.about.marks is not None:
            spans = learnt_spans(self.documents.messages(place), self.documents.learn, begun)
            tokens.turns = turns_of(tokens.input_ids, tokens.ends, spans, Marks(**self.about.marks))
        return tokens

    @cached_property
    def sizes(self) -> np.ndarray:
        """Tokens of each document, int64 [D]; 0 for one without, however long for one that is too long."""
        return np.diff(self._offsets)

    @cached_property
    def places(self) -> np.ndarray:
        """The places of the documents that are here, int64 [D']."""
        is_here = self.sizes <= self.max_tokens
        is_here[self._unspelled] = False
        return np.flatnonzero(is_here if self.only is None else is_here & self.only)

    def up_to(self, max_tokens: int, name: str) -> "TokenizedDocuments":
        """Those of at most so many tokens, which is what LLM `name` can hold; the others are set aside."""
        return self._like(min(max_tokens, self.max_tokens), name, self.only)

    def among(self, only: np.ndarray) -> "TokenizedDocuments":
        """Those of the documents where this mask, bool [D], is true."""
        return self._like(self.max_tokens, self.name, only)

    def _like(self, max_tokens: int, name: str, only: np.ndarray | None) -> "TokenizedDocuments":
        arrays = dict(zip(ARRAYS, (self._offsets, self._ids, self._ends), strict=True))
        return TokenizedDocuments(self.documents, arrays, self.about, max_tokens, name, self.folder, only)

    @property
    def _unspelled(self) -> np.ndarray:
        return np.array([int(place) for place in self.about.unspelled], dtype=np.int64)

    @property
    def num_tokens(self) -> int:
        """Of all documents that are here."""
        return int(self.sizes[self.places].sum())

    @property
    def largest_id(self) -> int:
        """The largest token id that occurs, in these documents or in those that were too long; -1 where no token does."""
        return self.about.largest_id

    @cached_property
    def set_aside(self) -> dict[str, str]:
        """Why a document is not here that was asked for, by id."""
        reasons = {int(place): why for place, why in self.about.unspelled.items()}
        long = np.flatnonzero(self.sizes > self.max_tokens)
        for place, size in zip(long.tolist(), self.sizes[long].tolist(), strict=True):
            reasons[place] = f"{size} tokens, {self.name!r} can hold {self.max_tokens}"
        places = [place for place in sorted(reasons) if self.only is None or self.only[place]]
        return dict(zip(hex_names(self.documents.ids[places]), (reasons[p] for p in places), strict=True))

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of each document that is here, by id: for few documents."""
        return dict(zip(self, self.sizes[self.places].tolist(), strict=True))

    def __getitem__(self, document_id: str) -> TokenizedDocument:
        return self.at(self._place_of(document_id))

    def data_of(self, document_id: str) -> bytes:
        """The bytes of a document that is here."""
        return self.documents[self._place_of(document_id)].text.encode()

    def _place_of(self, document_id: str) -> int:
        if (place := self._by_id.place(document_id)) < 0:
            raise KeyError(document_id)
        return int(self.places[place])

    def __iter__(self) -> Iterator[str]:
        return iter(hex_names(self.documents.ids[self.places]))

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def _by_id(self) -> IdIndex:
        return IdIndex(self.documents.ids[self.places])


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
    viewed = Documents.of(documents)
    if folder is None:
        files = {key: BytesIO() for key in ARRAYS}
        about = _write(files, surface, viewed, advance)
        arrays = {key: np.frombuffer(files[key].getvalue(), kind) for key, kind in ARRAYS.items()}
        return TokenizedDocuments(viewed, arrays, about, max_tokens, surface.name)
    key = hashlib.sha256(f"{FORMAT_VERSION} {surface.fingerprint} {viewed.key}".encode()).hexdigest()
    place = folder / f"{surface.name}-{key[:24]}"

    def fill(unfinished: Path) -> None:
        with ExitStack() as stack:
            files = {key: stack.enter_context((unfinished / f"{key}.bin").open("wb")) for key in ARRAYS}
            about = _write(files, surface, viewed, advance)
            told = {key: value for key, value in vars(about).items() if key != "marks" or value is not None}
            (unfinished / "about.json").write_text(json.dumps(told), encoding="utf-8")

    make_folder_once(place, fill)
    return _mapped(place, viewed, max_tokens, surface.name)


def _write(files: Mapping[str, Any], surface: Surface, documents: Documents, advance: Callable[[int], None]) -> About:
    """The arrays as they grow, never all in memory."""
    about = About(marks=None if surface.chat is None else asdict(surface.marks))
    files["offsets"].write(np.zeros(1, ARRAYS["offsets"]).tobytes())
    for start in range(0, len(documents), AT_ONCE):
        some = documents[start : start + AT_ONCE]
        ids, ends, sizes = [], [], []
        for cut in in_tokens(surface, some):
            if isinstance(cut, UnspellableDocument):
                about.unspelled[str(about.documents)] = str(cut)
            else:
                ids.append(cut.input_ids)
                ends.append(cut.ends)
            sizes.append(0 if isinstance(cut, UnspellableDocument) else len(cut.input_ids))
            about.documents += 1
        for key, rows in (("ids", ids), ("ends", ends)):
            if rows:
                files[key].write(np.concatenate(rows).astype(ARRAYS[key]).tobytes())
        files["offsets"].write((about.tokens + np.cumsum(sizes)).astype(ARRAYS["offsets"]).tobytes())
        about.tokens += sum(sizes)
        about.largest_id = max(about.largest_id, *(int(row.max(initial=-1)) for row in ids), -1)
        advance(len(some))
    return about


def _mapped(
    place: Path, documents: Documents, max_tokens: int, name: str, only: np.ndarray | None = None
) -> TokenizedDocuments:
    """The tokens in this folder; ValueError where a file of it is cut off or not of these documents."""
    with undamaged(place):
        about = About(**json.loads((place / "about.json").read_text(encoding="utf-8")))
        if about.documents != len(documents):
            raise EOFError(f"it has {about.documents} documents, there are {len(documents)}")
        lengths = {"offsets": about.documents + 1, "ids": about.tokens, "ends": about.tokens}
        arrays = {key: mapped_array(place / f"{key}.bin", kind, lengths[key]) for key, kind in ARRAYS.items()}
        return TokenizedDocuments(documents, arrays, about, max_tokens, name, place, only)
