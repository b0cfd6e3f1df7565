"""Traces go to disk and come back as they were, whatever happens in between."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowfuse.store import MapStore, TraceKey, TraceStore
from knowfuse.types import EMPTY, SourceTrace, TopK

KEY = TraceKey(source="mpt", llm="weights", tokenizer="surface", top_k=3)


def trace(length: int, seed: int) -> SourceTrace:
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.random((length, 3), dtype=np.float32))
    log_probs[0, 2] = EMPTY
    return SourceTrace(
        input_ids=rng.integers(0, 50_000, length),
        ends=np.cumsum(rng.integers(0, 9, length)),
        topk=TopK(rng.integers(0, 50_000, (length, 3)), log_probs),
        nll=rng.random(length, dtype=np.float32),
    )


def traces(*names: str) -> dict[str, SourceTrace]:
    return {name: trace(1 + len(name) % 5, seed=sum(name.encode())) for name in names}


def assert_equal(one: SourceTrace, other: SourceTrace) -> None:
    """Bit by bit, and in the dtypes that alignment reads."""
    for a, b in [
        (one.input_ids, other.input_ids),
        (one.ends, other.ends),
        (one.topk.ids, other.topk.ids),
        (one.topk.log_probs, other.topk.log_probs),
        (one.nll, other.nll),
    ]:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, lengths: list[int]) -> None:
    folder = tmp_path_factory.mktemp("store")
    written = {f"document {n}": trace(length, n) for n, length in enumerate(lengths)}
    TraceStore(folder, KEY).write(written)
    store = TraceStore(folder, KEY)
    for name, want in written.items():
        assert_equal(store.read(name), want)


def test_reading_needs_no_reopening(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "new" / "folder", KEY)
    store.write(traces("a", "bb"))
    assert_equal(store.read("bb"), traces("bb")["bb"])
    store.write(traces("ccc"))
    assert_equal(store.read("ccc"), traces("ccc")["ccc"])
    assert_equal(store.read("a"), traces("a")["a"])


def test_an_appended_shard_leaves_the_first_alone(tmp_path: Path) -> None:
    TraceStore(tmp_path, KEY).write(traces("a", "bb"))
    first = tmp_path / "shard-00000.safetensors"
    before = first.read_bytes(), first.stat().st_mtime_ns, first.stat().st_ino
    TraceStore(tmp_path, KEY).write(traces("ccc"))
    assert (first.read_bytes(), first.stat().st_mtime_ns, first.stat().st_ino) == before
    store = TraceStore(tmp_path, KEY)
    assert not store.missing(["a", "bb", "ccc"])
    for name in ("a", "bb", "ccc"):
        assert_equal(store.read(name), traces(name)[name])


def test_an_empty_write_writes_nothing(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "folder", KEY)
    store.write({})
    store.put_aside({})
    assert not (tmp_path / "folder").exists()


def test_a_pickled_store_reads_in_another_process(tmp_path: Path) -> None:
    """As DataLoader workers get it, after the first process has mapped the files."""
    store = TraceStore(tmp_path, KEY)
    store.write(traces("a", "bb"))
    store.read("a")
    copy = pickle.loads(pickle.dumps(store))
    assert_equal(copy.read("bb"), store.read("bb"))
    assert_equal(copy.read("a"), store.read("a"))


@pytest.mark.parametrize(
    ("name", "other"),
    [("source", "llama"), ("llm", "other weights"), ("tokenizer", "other"), ("top_k", 5), ("format_version", 99)],
)
def test_traces_made_with_another_key_are_refused(tmp_path: Path, name: str, other: object) -> None:
    TraceStore(tmp_path, KEY).write(traces("a"))
    changed = replace(KEY, **{name: other})  # type: ignore[arg-type]
    made = getattr(KEY, name)
    with pytest.raises(ValueError, match=rf"made with {name}={made!r}, this run wants {other!r}: .*knowfuse\.prepare"):
        TraceStore(tmp_path, changed)
    assert changed.folder_name != KEY.folder_name


def test_documents_that_were_not_read_are_an_error(tmp_path: Path) -> None:
    store = TraceStore(tmp_path, KEY)
    store.write(traces("a", "bb"))
    assert store.missing(["a", "x", "y"]) == {"x", "y"}
    store.require(["a", "bb"])
    with pytest.raises(
        ValueError,
        match=r"source 'mpt' has traces of 1 documents, the corpus has 3 \(missing: x, \.\.\.\): run python",
    ):
        store.require(["a", "y", "x"])


def test_documents_set_aside_are_known_and_not_missing(tmp_path: Path) -> None:
    store = TraceStore(tmp_path, KEY)
    store.put_aside({"x": "900 tokens"})
    store.write(traces("a"))
    store.put_aside({"y": "no bytes"})
    again = TraceStore(tmp_path, KEY)
    assert again.set_aside == {"x": "900 tokens", "y": "no bytes"}
    assert not again.missing(["a", "x", "y"])
    again.require(["a", "x", "y"])


def test_a_write_killed_half_way_loses_nothing(tmp_path: Path) -> None:
    """Killed while writing a shard, between the shard and the manifest, and while writing the manifest."""
    TraceStore(tmp_path, KEY).write(traces("a"))
    (tmp_path / "shard-00001.safetensors.part").write_bytes(b"half a sh")
    (tmp_path / "shard-00001.safetensors").write_bytes(b"whole, but in no manifest")
    (tmp_path / "manifest.json.part").write_text('{"key": {')
    store = TraceStore(tmp_path, KEY)
    assert store.missing(["a", "bb"]) == {"bb"}
    assert_equal(store.read("a"), traces("a")["a"])
    store.write(traces("bb"))
    again = TraceStore(tmp_path, KEY)
    for name in ("a", "bb"):
        assert_equal(again.read(name), traces(name)[name])
    assert not list(tmp_path.glob("*.part"))


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    TraceStore(tmp_path, KEY).write(traces("a"))
    (tmp_path / "shard-00000.safetensors").unlink()
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors' of source 'mpt' is listed but gone: remove"):
        TraceStore(tmp_path, KEY).read("a")


def test_the_manifest_carries_what_the_traces_depend_on(tmp_path: Path) -> None:
    TraceStore(tmp_path, KEY).write(traces("a", "bb"))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["key"] == {
        "source": "mpt",
        "llm": "weights",
        "tokenizer": "surface",
        "top_k": 3,
        "format_version": 1,
    }
    assert manifest["shards"] == [{"file": "shard-00000.safetensors", "documents": ["a", "bb"], "tokens": 5}]


def test_a_map_is_made_once_and_found_again(tmp_path: Path) -> None:
    made: list[str] = []

    def make() -> dict[str, np.ndarray]:
        made.append("once")
        return {"ids": np.arange(6, dtype=np.int64)[::2], "bytes": np.frombuffer(b"ab", dtype=np.uint8)}

    first, again = MapStore(tmp_path / "maps")("nearest-1", make), MapStore(tmp_path / "maps")("nearest-1", make)
    assert made == ["once"]
    for arrays in (first, again):
        assert arrays["ids"].tolist() == [0, 2, 4]
        assert arrays["bytes"].tobytes() == b"ab"
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["nearest-1.safetensors"]
