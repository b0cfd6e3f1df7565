"""How do the traces of some documents leave a store that other runs share? As a store of their own, coded as they are."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knowfuse.traces.codec import Layout
from knowfuse.traces.store import TraceStore

SHARD_BYTES = 2**26


@dataclass
class Copied:
    """What is in a store that was copied; `num_bytes` are those of coded rows."""

    documents: int = 0
    rows: int = 0
    num_bytes: int = 0
    set_aside: int = 0


def copy_documents(store: TraceStore, names: Iterable[str], folder: Path) -> Copied:
    """Write what the source said of these documents, and which of them it could not read, to a folder that is not there.

    KeyError for a document that is neither.
    """
    copy, copied, reasons = TraceStore(folder, store.key), Copied(), dict[str, str]()
    waiting: dict[Layout, dict[str, np.ndarray]] = defaultdict(dict)  # a shard has one layout
    size: Counter[Layout] = Counter()
    for name in names:
        if (why := store.set_aside.get(name)) is not None:
            reasons[name] = why
            continue
        rows, layout = store.coded(name)
        waiting[layout][name] = rows
        size[layout] += rows.nbytes
        copied.documents += 1
        copied.rows += len(rows)
        copied.num_bytes += rows.nbytes
        if size[layout] > SHARD_BYTES:
            copy.write_coded(waiting.pop(layout), layout)
            size[layout] = 0
    for layout, its in waiting.items():
        copy.write_coded(its, layout)
    copy.put_aside(reasons)
    copied.set_aside = len(reasons)
    return copied
