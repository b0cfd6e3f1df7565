"""Traces that somebody else has written, or a disk has changed: each is refused, or is exactly what was written.

A hundred changes of one place in one file, drawn from a fixed seed.
"""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from experiments_for_tests import documents, trace_store

from knowfuse.text.documents import Documents
from knowfuse.traces.store import TraceStore
from knowfuse.types import SourceTrace

TEXTS = documents(3)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """One bit other, a run of zeros, a byte too many, a byte too few, or cut off."""
    place = draw.randrange(len(content))
    return draw.choice(
        [
            content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :],
            content[:place] + bytes(min(16, len(content) - place)) + content[place + 16 :],
            content[:place] + bytes([draw.randrange(256)]) + content[place:],
            content[:place] + content[place + 1 :],
            content[:place],
        ]
    )


def read(store: TraceStore) -> list[SourceTrace]:
    assert not store.missing(Documents.of(TEXTS).ids).any(), (
        "a document that nobody finds is read again, and that is right"
    )
    return [store.read(document.id) for document in TEXTS]


def same(one: SourceTrace, other: SourceTrace) -> bool:
    pairs = [(one.input_ids, other.input_ids), (one.ends, other.ends), (one.nll, other.nll)]
    pairs += [(one.topk.ids, other.topk.ids), (one.topk.log_probs, other.topk.log_probs)]
    return all(np.array_equal(mine, its) for mine, its in pairs)


def test_a_hundred_mutated_files(tmp_path: Path) -> None:
    sound = trace_store(tmp_path / "sound", "neox", TEXTS)
    want = read(sound)
    files = sorted(path.name for path in (tmp_path / "sound").iterdir() if path.suffix != ".lock")
    assert len(files) == 3, "a manifest, a shard and its index"
    draw, outcomes = random.Random(0), {"refused": 0, "right": 0, "read again": 0}
    for n in range(100):
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "sound", folder)
        file = folder / files[n % 3]
        file.write_bytes(mutated(file.read_bytes(), draw))
        try:
            got = read(TraceStore(folder, sound.key))
        except (ValueError, OSError):
            outcomes["refused"] += 1
        except AssertionError:
            outcomes["read again"] += 1
        else:
            assert all(map(same, got, want)), (files[n % 3], n)
            outcomes["right"] += 1
    assert sum(outcomes.values()) == 100
    assert outcomes["refused"] > 50, outcomes


def test_an_index_names_no_file_outside_its_folder(tmp_path: Path) -> None:
    store = trace_store(tmp_path / "mine", "neox", TEXTS)
    (its,) = (tmp_path / "mine").glob("*.index")
    its.write_bytes(its.read_bytes().replace(b"shard-00000.safetensors", b"../x/shard-00000.safetensors"))
    with pytest.raises(ValueError, match=r"names '\.\./x/shard-00000\.safetensors', which is no shard of its folder"):
        TraceStore(tmp_path / "mine", store.key)
