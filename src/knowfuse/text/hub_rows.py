"""Which rows are in a data set of the hub, or of a folder like one? Opened with the `datasets` package, whole or streamed."""

import glob
import hashlib
import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from knowfuse.files import sha256_of
from knowfuse.text.conversations import WANTED
from knowfuse.text.hub_dataset import HubDataset
from knowfuse.text.rows import Rows, TextRows
from knowfuse.unreachable import unreachable

ROWS = 1024  # held at a time


class HubRows:
    """The rows of a data set, opened when they are asked for; `read_as` says which columns are looked at.

    ValueError that names the data set where the package is missing, or it cannot be had: no network, no such data set,
    configuration or revision, a file that is damaged.
    """

    def __init__(self, data: HubDataset, read_as: Rows) -> None:
        self.data, self.read_as = data, read_as
        folder = Path(data.path).expanduser()
        self.folder = folder if folder.is_dir() else None
        self._files: list[tuple[str, str]] | None = None  # with their checksums, once they were asked for

    def content(self, memo: Path | None) -> Any:
        """What decides the rows: the commit on the hub, or the files in the folder."""
        if self.folder is None:
            return [self.data.path, self.commit]
        self._files = _content_of(self.folder, memo)
        return self._files

    @cached_property
    def commit(self) -> str:
        """Which commit the hub has under this revision; without network, the one that `datasets` has in its cache."""
        if is_commit(self.data.revision):
            return self.data.revision
        with self._named():
            from huggingface_hub import HfApi, constants

            try:
                if constants.HF_HUB_OFFLINE:
                    raise ConnectionError("HF_HUB_OFFLINE is set")
                found = HfApi().dataset_info(self.data.path, revision=self.data.revision, timeout=20).sha
            except unreachable():
                found = self._builder(self.data.revision).hash
            return str(found)

    @cached_property
    def splits(self) -> Mapping[str, Any]:
        """What the data set calls its splits, with the rows of each."""
        with self._named():
            builder = self._builder(None if self.folder else self.commit)
            if self.data.streaming:
                return builder.as_streaming_dataset()
            builder.download_and_prepare()
            return builder.as_dataset()

    def read(self, split: str, seed: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row's number in the split and what is read of it, in order, or (not of a stream) in an order by the seed.

        ValueError unless each field of a text is a column of text, as far as the data set says what its columns are, and
        where there are no conversations.
        """
        with self._named():
            rows = self._of_split(split)
            first = next(iter(rows.take(1)), {})
        fields = self.read_as.columns(rows.column_names or list(first))
        if isinstance(self.read_as, TextRows):
            self._require_texts(rows, first, fields, split)
        elif not fields:
            names = ", ".join(map(repr, rows.column_names or list(first)))
            raise ValueError(
                f"data set {self.data.path!r}, split {split!r} has no conversations: its columns are {names}, wanted are {WANTED}"
            )
        order = None if seed is None else np.random.default_rng(seed).permutation(len(rows))
        with self._named():
            if order is not None:
                rows = rows.select(order)
            at = 0
            for batch in rows.select_columns(fields).iter(batch_size=ROWS):
                for cells in zip(*(batch[field] for field in fields), strict=True):
                    yield at if order is None else int(order[at]), dict(zip(fields, cells, strict=True))
                    at += 1

    def _of_split(self, split: str) -> Any:
        """A split, or parts such as `train[:1%]` or `train[:1%]+train[-1%:]` of one that is not streamed."""
        name, bracket, _ = split.partition("[")
        rows = self.splits[name]
        if not bracket:
            return rows
        from datasets import ReadInstruction, concatenate_datasets

        asked: Any = ReadInstruction.from_spec(split).to_absolute({name: len(rows)})
        parts = [rows.select(range(part.from_, part.to)) for part in asked]
        return parts[0] if len(parts) == 1 else concatenate_datasets(parts)

    def _require_texts(self, rows: Any, first: Mapping[str, Any], fields: Sequence[str], split: str) -> None:
        names = rows.column_names or list(first)
        place = f"data set {self.data.path!r}, split {split!r}"
        for field in fields:
            kind = (rows.features or {}).get(field)
            dtype = getattr(kind, "dtype", None)
            if field not in names:
                raise ValueError(
                    f"{place} has no field {field!r}, it has {', '.join(map(repr, names))}: set its text_field to one of them"
                )
            if dtype == "null":
                raise ValueError(
                    f"{place} has nothing but nulls in field {field!r}: set its text_field to a column of text"
                )
            if kind is not None and dtype not in ("string", "large_string", "string_view"):
                raise ValueError(
                    f"{place}, row 0 has no text in field {field!r}, but {first.get(field)!r} ({kind}): set its text_field "
                    "to a column of text"
                )

    def _builder(self, revision: str | None) -> Any:
        import datasets
        from datasets import config

        path = self.data.path if self.folder is None else _plain(self.folder)
        # A cache of its own for each content of a folder: `datasets` tells one by its files' times of change.
        files = None if self.folder is None else self._files or _content_of(self.folder, None)
        content = None if files is None else hashlib.sha256(json.dumps(files).encode())
        own = None if content is None else f"{config.HF_DATASETS_CACHE}/knowfuse-{content.hexdigest()[:16]}"
        how = {"data_dir": self.data.data_dir, "revision": revision, "cache_dir": own}
        builder = datasets.load_dataset_builder(path, self.data.name, **how)
        if is_commit(revision) and builder.hash != revision:  # without network `datasets` takes any that it has
            raise ValueError(f"revision {revision} is not in the cache of datasets, which has {builder.hash}")
        return builder

    @contextmanager
    def _named(self) -> Iterator[None]:
        if importlib.util.find_spec("datasets") is None:
            raise ValueError(
                f"data set {self.data.path!r} is read with the datasets package, which is not installed: "
                "pip install 'knowfuse[hub]', or pip install datasets"
            )
        from datasets.exceptions import DatasetsError

        try:
            yield
        except (OSError, ValueError, DatasetsError, *unreachable()) as error:
            kind = (
                "that is neither a folder here nor to be had from the hub" if self.folder is None else "in this folder"
            )
            raise ValueError(
                f"data set {self.data.path!r}, {kind}, cannot be read ({type(error).__name__}: {error}): check its path, "
                "name, revision and the network, or download it and give the folder"
            ) from error


def is_commit(revision: str | None) -> bool:
    """Whether it is all 40 digits of a commit, which never means another."""
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


def _content_of(folder: Path, memo: Path | None) -> list[tuple[str, str]]:
    return [(file.relative_to(folder).as_posix(), sha256_of(file, memo)) for file in _files_in(folder)]


def _files_in(folder: Path) -> Iterator[Path]:
    """All files in it but hidden ones; links are followed, as `datasets` does."""
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        yield from (Path(place) / name for name in sorted(names) if name[0] != ".")


def _plain(folder: Path) -> str:
    """The folder by a name in which nothing is wild: `datasets` takes brackets in its path for a pattern.

    Where its own name will not do, it is a folder of links among temporary files, the same each time.
    """
    place = folder.resolve()
    if not glob.has_magic(str(place)) and "::" not in str(place):
        return str(place)
    digest = hashlib.sha256(str(place).encode(errors="surrogateescape")).hexdigest()[:16]
    plain = Path(tempfile.gettempdir()).resolve() / f"knowfuse-{os.getuid()}-{digest}"
    if glob.has_magic(str(plain)):
        raise ValueError(f"its path and that of temporary files, {str(plain.parent)!r}, both hold brackets: rename one")
    for file in _files_in(place):
        link = plain / file.relative_to(place)
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(file)
    for link in [link for link in plain.rglob("*") if link.is_symlink() and not link.exists()]:
        link.unlink(missing_ok=True)  # to a file that is gone
    return str(plain)
