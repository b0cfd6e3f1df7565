"""How are documents kept? As columns: the texts in batches, all else side by side; in memory or mapped from two Arrow files.

`texts.arrow` has the column `text`, in batches of `BATCH` documents. `documents.arrow` has one batch: `id` (12 bytes),
`domain` and `split` (dictionaries), `is_complete`, `num_bytes`. Mapped, they cost a process no memory that others do not
share, and opening them takes the same time however much text there is. Of conversations there is one column more, `messages`;
where some begin with a prompt, `prompt_bytes`.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from knowfuse.files import undamaged
from knowfuse.ids import ID, ID_BYTES, hex_names
from knowfuse.text.document import SPLITS, Document, Learn, Split, coded, decoded, id_of

BATCH = 4096  # documents of one batch of texts
TEXTS, DOCUMENTS = "texts.arrow", "documents.arrow"
_TEXT_SCHEMA = pa.schema([pa.field("text", pa.large_string(), nullable=False)])


@dataclass
class Table:
    """The columns of N documents."""

    texts: list[Any]  # Arrow arrays of BATCH strings each, the last has what is left
    ids: np.ndarray  # of 12 bytes [N]
    domains: list[str]  # what the codes stand for
    domain_codes: np.ndarray  # int32 [N]
    split_codes: np.ndarray  # int8 [N], places in SPLITS
    is_complete: np.ndarray  # bool [N]
    num_bytes: np.ndarray  # int64 [N]
    folder: Path | None = None  # that it is mapped from
    messages: Any = None  # of conversations: an Arrow array of N strings, as `document.coded` writes them
    prompt_bytes: np.ndarray | None = None  # int64 [N]; None: no document has a prompt

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[Callable[..., "Table"], tuple[Any, ...]]:
        """A mapped table goes to another process as its path."""
        if self.folder is not None:
            return open_table, (self.folder,)
        return Table, tuple(vars(self).values())

    def document(self, row: int, learn: Learn = "assistant") -> Document:
        """One document, of which so much is learnt; ValueError where its text is not what was written."""
        text = self.texts[row // BATCH][row % BATCH].as_py()
        is_complete, messages = bool(self.is_complete[row]), self.coded_messages(row)
        if id_of(text.encode(), is_complete, messages) != self.ids[row].tobytes():
            raise ValueError(
                f"document {hex_names(self.ids[row : row + 1])[0]} in {str(self.folder)!r} is not what was written: remove that "
                "folder and run the same command again, which makes it anew"
            )
        domain, split = self.domains[self.domain_codes[row]], SPLITS[self.split_codes[row]]
        return Document(text, domain, split, is_complete, decoded(messages), learn, self.prompt_of(row))

    def coded_messages(self, row: int) -> str:
        """Roles and sizes of the messages of one document; nothing of a plain text."""
        return "" if self.messages is None else self.messages[row].as_py()

    def prompt_of(self, row: int) -> int:
        """Bytes at the beginning of one document that are not learnt."""
        return 0 if self.prompt_bytes is None else int(self.prompt_bytes[row])


class TableWriter:
    """Documents one after another; `take` is given the texts of BATCH of them at a time, the rest is held: 34 bytes each."""

    def __init__(self, take: Callable[[pa.RecordBatch], None]) -> None:
        self._take, self._texts = take, cast(list[bytes], [])
        self._ids, self._is_complete = bytearray(), bytearray()
        self._domains: dict[str, int] = {}
        self._codes: list[np.ndarray] = []
        self._waiting: list[tuple[int, int, int]] = []  # domain, split, bytes
        self._messages: list[str] = []
        self._prompts = array("q")

    def add(
        self,
        data: bytes,
        document_id: bytes,
        domain: str,
        split: Split,
        is_complete: bool,
        messages: str = "",
        prompt_bytes: int = 0,
    ) -> None:
        self._texts.append(data)
        self._ids += document_id
        self._is_complete.append(is_complete)
        self._messages.append(messages)
        self._prompts.append(prompt_bytes)
        self._waiting.append((self._domains.setdefault(domain, len(self._domains)), SPLITS.index(split), len(data)))
        if len(self._texts) == BATCH:
            self._pass_on()

    def _pass_on(self) -> None:
        texts = pa.array(self._texts, pa.large_binary()).cast(pa.large_string())
        self._take(pa.record_batch([texts], schema=_TEXT_SCHEMA))
        self._codes.append(np.array(self._waiting, dtype=np.int64).reshape(-1, 3))
        self._texts, self._waiting = [], []

    def columns(self) -> pa.RecordBatch:
        """All but the texts, once no document comes any more."""
        if self._texts or not self._codes:
            self._pass_on()
        domains, splits, num_bytes = np.concatenate(self._codes).T
        count = len(num_bytes)
        return pa.record_batch(
            {
                "id": pa.FixedSizeBinaryArray.from_buffers(pa.binary(ID_BYTES), count, [None, pa.py_buffer(self._ids)]),
                "domain": pa.DictionaryArray.from_arrays(
                    pa.array(domains, pa.int32()), pa.array(list(self._domains), pa.string())
                ),
                "split": pa.DictionaryArray.from_arrays(pa.array(splits, pa.int8()), pa.array(list(SPLITS))),
                "is_complete": pa.array(np.frombuffer(self._is_complete, np.uint8).astype(bool)),
                "num_bytes": pa.array(num_bytes, pa.int64()),
                **({"messages": pa.array(self._messages, pa.large_string())} if any(self._messages) else {}),
                **({"prompt_bytes": pa.array(self._prompts, pa.int64())} if any(self._prompts) else {}),
            }
        )


def table_of(documents: Iterable[Document]) -> Table:
    """These documents as a table in memory."""
    batches: list[pa.RecordBatch] = []
    writer = TableWriter(batches.append)
    for d in documents:
        data, messages = d.text.encode(), coded(d.messages)
        document_id = id_of(data, d.is_complete, messages)
        writer.add(data, document_id, d.domain, d.split, d.is_complete, messages, d.prompt_bytes)
    columns = writer.columns()
    return table_from(batches, columns)


@contextmanager
def writing_table(folder: Path) -> Iterator[TableWriter]:
    """What is added in the block is written into the folder."""
    with pa.OSFile(str(folder / TEXTS), "wb") as sink, pa.ipc.new_file(sink, _TEXT_SCHEMA) as file:
        writer = TableWriter(file.write_batch)
        yield writer
        columns = writer.columns()
    with pa.OSFile(str(folder / DOCUMENTS), "wb") as sink, pa.ipc.new_file(sink, columns.schema) as file:
        file.write_batch(columns)


def open_table(folder: Path) -> Table:
    """The table in this folder, mapped; ValueError where a file is cut off or damaged."""
    texts = _batches(folder / TEXTS)
    with undamaged(folder / DOCUMENTS):
        (columns,) = _batches(folder / DOCUMENTS)
        table = table_from(texts, columns, folder)
    if (found := sum(map(len, table.texts))) != len(table):
        raise ValueError(
            f"{str(folder)!r} is damaged: {TEXTS} has {found} documents, {DOCUMENTS} has {len(table)}: remove that folder "
            "and run the same command again"
        )
    return table


def _batches(path: Path) -> list[pa.RecordBatch]:
    with undamaged(path):
        try:
            file = pa.ipc.open_file(pa.memory_map(str(path)))
            return [file.get_batch(n) for n in range(file.num_record_batches)]
        except pa.ArrowInvalid as error:
            raise EOFError(str(error)) from error


def table_from(texts: list[pa.RecordBatch], columns: pa.RecordBatch, folder: Path | None = None) -> Table:
    """The table of what a writer passed on and what it held."""
    there = columns.schema.names
    domain, split = columns.column("domain"), columns.column("split")
    return Table(
        texts=[batch.column("text") for batch in texts],
        ids=np.frombuffer(columns.column("id").buffers()[1], ID, count=len(columns)),
        domains=domain.dictionary.to_pylist(),
        domain_codes=domain.indices.to_numpy(),
        split_codes=split.indices.to_numpy(),
        is_complete=columns.column("is_complete").to_numpy(zero_copy_only=False),
        num_bytes=columns.column("num_bytes").to_numpy(),
        folder=folder,
        messages=columns.column("messages") if "messages" in there else None,
        prompt_bytes=columns.column("prompt_bytes").to_numpy() if "prompt_bytes" in there else None,
    )
