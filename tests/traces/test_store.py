"""Traces go to disk and come back as they were, whatever happens in between."""

import errno
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from experiments_for_tests import TRACING
from hypothesis import given, settings
from hypothesis import strategies as st

from knowfuse.ids import id_array
from knowfuse.traces.codec import decode, encode, layout_of
from knowfuse.traces.manifest import TraceKey
from knowfuse.traces.store import TraceStore
from knowfuse.types import EMPTY, SourceTrace, TopK

KEY = TraceKey(source="mpt", llm="weights", tokenizer="surface", top_k=3)


def trace(length: int, seed: int) -> SourceTrace:
    rng = np.random.default_rng(seed)
    probs = rng.random((length, 3), dtype=np.float32)
    log_probs = np.log(probs / (probs.sum(-1, keepdims=True) + 0.5))
    log_probs[0, 2] = EMPTY
    nll = rng.random(length, dtype=np.float32)
    nll[-1] = 0.0
    return SourceTrace(
        input_ids=rng.integers(40_000, 50_000, length),
        ends=np.cumsum(rng.integers(0, 9, length)),
        topk=TopK(rng.integers(0, 40_000, (length, 3)), log_probs),
        nll=nll,
    )


def as_read(said: SourceTrace) -> SourceTrace:
    """What the codec makes of a trace, whatever else is in its shard."""
    layout = layout_of([said])
    return decode(encode(said, layout), layout)


def named(word: str) -> str:
    """An id that can be told from others."""
    return word.encode().hex().ljust(24, "0")


def ids(*words: str) -> np.ndarray:
    return id_array(map(named, words))


def traces(*words: str) -> dict[str, SourceTrace]:
    return {named(word): trace(1 + len(word) % 5, seed=sum(word.encode())) for word in words}


def missing(store: TraceStore, *words: str) -> set[str]:
    return {word for word, is_missing in zip(words, store.missing(ids(*words)), strict=True) if is_missing}


def assert_equal(one: SourceTrace, other: SourceTrace) -> None:
    """A trace as read and as coded: bit by bit, and in the dtypes that alignment reads."""
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
@settings(max_examples=20)
def test_the_store_adds_nothing_to_what_the_codec_does(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    written = {named(f"doc {n}"): trace(length, n) for n, length in enumerate(lengths)}
    TraceStore(folder, KEY).write(written)
    store = TraceStore(folder, KEY)
    for name, want in written.items():
        assert_equal(store.read(name), as_read(want))


def test_reading_needs_no_reopening(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "new" / "folder", KEY)
    store.write(traces("a", "bb"))
    assert_equal(store.read(named("bb")), as_read(traces("bb")[named("bb")]))
    store.write(traces("ccc"))
    assert_equal(store.read(named("ccc")), as_read(traces("ccc")[named("ccc")]))
    assert_equal(store.read(named("a")), as_read(traces("a")[named("a")]))


def test_an_appended_shard_leaves_the_first_alone(tmp_path: Path) -> None:
    TraceStore(tmp_path, KEY).write(traces("a", "bb"))
    first = tmp_path / "shard-00000.safetensors"
    before = first.read_bytes(), first.stat().st_mtime_ns, first.stat().st_ino
    TraceStore(tmp_path, KEY).write(traces("ccc"))
    assert (first.read_bytes(), first.stat().st_mtime_ns, first.stat().st_ino) == before
    store = TraceStore(tmp_path, KEY)
    assert not missing(store, "a", "bb", "ccc")
    for name in ("a", "bb", "ccc"):
        assert_equal(store.read(named(name)), as_read(traces(name)[named(name)]))


def test_an_empty_write_writes_nothing(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "folder", KEY)
    store.write({})
    store.put_aside({})
    assert not (tmp_path / "folder").exists()


def test_a_pickled_store_reads_in_another_process(tmp_path: Path) -> None:
    """As DataLoader workers get it, after the first process has mapped the files."""
    store = TraceStore(tmp_path, KEY)
    store.write(traces("a", "bb"))
    store.read(named("a"))
    copy = pickle.loads(pickle.dumps(store))
    assert_equal(copy.read(named("bb")), store.read(named("bb")))
    assert_equal(copy.read(named("a")), store.read(named("a")))


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
    assert missing(store, "a", "x", "y") == {"x", "y"}
    store.require(ids("a", "bb"))
    with pytest.raises(
        ValueError,
        match=r"source 'mpt' has traces of 1 documents, the corpus has 3 \(missing: 79000000\w+, \.\.\.\): run python",
    ):
        store.require(ids("a", "y", "x"))


def test_documents_set_aside_are_known_and_not_missing(tmp_path: Path) -> None:
    store = TraceStore(tmp_path, KEY)
    store.put_aside({named("x"): "900 tokens"})
    store.write(traces("a"))
    store.put_aside({named("y"): "no bytes"})
    again = TraceStore(tmp_path, KEY)
    assert again.set_aside == {named("x"): "900 tokens", named("y"): "no bytes"}
    assert not missing(again, "a", "x", "y")
    again.require(ids("a", "x", "y"))


def test_reasons_stay_where_one_of_their_files_was_removed(tmp_path: Path) -> None:
    """As the remedy for a damaged one has it."""
    store = TraceStore(tmp_path, KEY)
    for name in ("x", "y", "z"):
        store.put_aside({named(name): "900 tokens"})
    (tmp_path / "aside-00000.json").unlink()
    again = TraceStore(tmp_path, KEY)
    again.put_aside({named("x"): "900 tokens"})
    assert TraceStore(tmp_path, KEY).set_aside.keys() == {named("x"), named("y"), named("z")}


def test_two_that_write_into_one_place_keep_what_both_have_read(tmp_path: Path) -> None:
    """From caches of their own, whose locks do not hold the other off."""
    tracing = replace(TRACING, place=str(tmp_path / "place"))
    stores = [tracing.store(KEY, tmp_path / cache, "") for cache in ("one", "other")]
    for store, name in zip(stores, ("a", "bb"), strict=True):
        store.write(traces(name))
    again = tracing.store(KEY, tmp_path / "third", "")
    again.verify()
    assert not missing(again, "a", "bb")


def test_a_write_killed_half_way_loses_nothing(tmp_path: Path) -> None:
    """Killed while writing a shard, between the shard and its index, and while writing the index."""
    TraceStore(tmp_path, KEY).write(traces("a"))
    (tmp_path / "shard-00001.safetensors.part").write_bytes(b"half a sh")
    (tmp_path / "shard-00001.safetensors").write_bytes(b"whole, but without an index")
    (tmp_path / "shard-00001.index.part").write_bytes(b'{"file": "sh')
    store = TraceStore(tmp_path, KEY)
    assert missing(store, "a", "bb") == {"bb"}
    assert_equal(store.read(named("a")), as_read(traces("a")[named("a")]))
    store.write(traces("bb"))
    again = TraceStore(tmp_path, KEY)
    for name in ("a", "bb"):
        assert_equal(again.read(named(name)), as_read(traces(name)[named(name)]))


def test_what_a_kill_left_of_other_ranks_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    """A shard without its index, which nobody reads, and one half-written; a living writer holds its shard until the index is there."""
    rank = TraceStore(tmp_path, KEY, writer="0000-of-0002")
    rank.write(traces("a"))
    rank.write(traces("b"))
    (tmp_path / "shard-0000-of-0002-00001.index").unlink()  # as killed right before it
    (tmp_path / "shard-0001-of-0002-00000.safetensors.12ab.part").touch()
    there = sorted(path.name for path in tmp_path.iterdir())
    alone = TraceStore(tmp_path, KEY)
    assert missing(alone, "a", "b") == {"b"}
    with alone.folder.writing("shard-0001-of-0002-00007.safetensors", b"rows"):
        alone.remove_left()
        there = [name for name in there if not name.endswith(("00001.safetensors", ".part"))]
        assert sorted(path.name for path in tmp_path.iterdir()) == [*there, "shard-0001-of-0002-00007.safetensors"]
        (tmp_path / "shard-0001-of-0002-00007.index").touch()
    alone.remove_left()
    assert (tmp_path / "shard-0001-of-0002-00007.safetensors").exists()
    assert_equal(alone.read(named("a")), as_read(traces("a")[named("a")]))


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    TraceStore(tmp_path, KEY).write(traces("a"))
    (tmp_path / "shard-00000.safetensors").unlink()
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors' of source 'mpt' in .* is listed but gone: run"):
        TraceStore(tmp_path, KEY).read(named("a"))


def damaged(folder: Path) -> Path:
    """Two shards; one bit of the second is not what was written."""
    store = TraceStore(folder, KEY)
    store.write(traces("a"))
    store.write(traces("bb", "ccc"))
    path = folder / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0b100
    path.write_bytes(data)
    return path


def test_a_flipped_bit_is_found_and_named(tmp_path: Path) -> None:
    """At the first read of a document of that shard, by a store that others were read from; both sums are said."""
    path = damaged(tmp_path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    written = json.loads((tmp_path / "shard-00001.index").read_bytes().split(b"\n")[0])["sha256"]
    store = TraceStore(tmp_path, KEY)
    store.read(named("a"))
    message = (
        rf"trace shard 'shard-00001\.safetensors' of source 'mpt' in .* is not what was written \(sha256 {found}, its "
        rf"index says {written}\): run python -m knowfuse\.prepare tracing\.verify=read_again with this run's settings, which "
        r"reads its 2 documents again"
    )
    for look in (lambda: store.read(named("ccc")), store.verify):
        with pytest.raises(ValueError, match=message):
            look()


def test_a_half_copied_shard_is_found(tmp_path: Path) -> None:
    path = damaged(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is not what was written"):
        TraceStore(tmp_path, KEY).read(named("bb"))


def test_broken_shards_are_dropped_when_asked(tmp_path: Path) -> None:
    """Their documents are missing then and can be written again; the whole ones stay, and no name is used twice."""
    damaged(tmp_path)
    store = TraceStore(tmp_path, KEY)
    store.write(traces("dddd"))
    kept = (tmp_path / "shard-00002.safetensors").read_bytes()
    assert store.drop_broken() == ["shard-00001.safetensors"]
    assert missing(store, "a", "bb", "ccc", "dddd") == {"bb", "ccc"}
    store.write(traces("bb", "ccc"))
    assert (tmp_path / "shard-00002.safetensors").read_bytes() == kept
    again = TraceStore(tmp_path, KEY)
    again.verify()
    assert again.drop_broken() == []
    for name in ("a", "bb", "ccc", "dddd"):
        assert_equal(again.read(named(name)), as_read(traces(name)[named(name)]))


def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    """No file may grow beyond 4 kB: the second shard fails by name, the first is read, and later it goes on."""
    code = textwrap.dedent(
        f"""
        import resource
        from test_store import KEY, TraceStore, named, trace, traces
        store = TraceStore({str(tmp_path)!r}, KEY)
        store.write(traces("a", "bb"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        store.write({{named("large"): trace(2000, 0)}})
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert re.search(
        r"OSError: cannot write 'shard-00001\.safetensors' of source 'mpt' to .*\(File too large\): make room there, or set "
        r"another folder\. The 2 documents in 1 shards written before stay valid, and the same command goes on from them",
        done.stderr,
    ), done.stderr
    store = TraceStore(tmp_path, KEY)
    assert not list(tmp_path.glob("*.part"))
    assert_equal(store.read(named("bb")), as_read(traces("bb")[named("bb")]))
    store.write(traces("ccc"))
    assert_equal(TraceStore(tmp_path, KEY).read(named("ccc")), as_read(traces("ccc")[named("ccc")]))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"'manifest\.json' of source 'mpt' to '.*/taken' \(.*\): set another folder$"):
        TraceStore(tmp_path / "taken", KEY).write(traces("a"))


def test_an_index_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full just after the shard: neither this store nor the next knows its documents."""
    store = TraceStore(tmp_path, KEY)
    store.write(traces("a"))
    write = store.folder.write

    def until_the_index(name: str, data: bytes) -> None:
        if name.endswith(".index"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(name, data)

    with monkeypatch.context() as patch:
        patch.setattr(store.folder, "write", until_the_index)
        with pytest.raises(
            OSError, match=r"No space left.*: make room.* The 1 documents in 1 shards written before stay valid"
        ):
            store.write(traces("bb"))
    assert missing(store, "a", "bb") == missing(TraceStore(tmp_path, KEY), "a", "bb") == {"bb"}
    store.write(traces("bb"))
    assert_equal(TraceStore(tmp_path, KEY).read(named("bb")), as_read(traces("bb")[named("bb")]))


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_store_behind_a_url(protocol: str, tmp_path: Path) -> None:
    """fsspec's own filesystems stand in for s3 and gs: written, appended, read through copies, and damage is found."""
    url, copies = f"{protocol}://{tmp_path}/traces", tmp_path / "copies"
    TraceStore(url, KEY, copies).write(traces("a", "bb"))
    store = TraceStore(url, KEY, copies)
    store.write(traces("ccc"))
    store = pickle.loads(pickle.dumps(TraceStore(url, KEY, copies)))
    for name in ("a", "bb", "ccc"):
        assert_equal(store.read(named(name)), as_read(traces(name)[named(name)]))
    assert len(list(copies.glob("*.safetensors"))) == (2 if protocol == "memory" else 0)
    for copy in copies.glob("*.safetensors"):
        copy.write_bytes(copy.read_bytes()[:-1] + b"\xff")
    healed = TraceStore(url, KEY, copies)
    healed.verify()
    assert healed.drop_broken() == [], "a copy of this machine is damaged, not what it was made from"
    files, path = fsspec.core.url_to_fs(f"{url}/shard-00001.safetensors")
    files.pipe_file(path, files.cat_file(path)[:-1] + b"\xff")
    if protocol == "memory":
        assert_equal(
            TraceStore(url, KEY, copies).read(named("ccc")), as_read(traces("ccc")[named("ccc")])
        )  # its copy is whole
    other = TraceStore(url, KEY, tmp_path / "other machine")
    with pytest.raises(ValueError, match=rf"'shard-00001\.safetensors' of source 'mpt' in '{url}' is not what was"):
        other.read(named("ccc"))
    assert other.drop_broken() == ["shard-00001.safetensors"]
    other.write(traces("ccc"))
    assert_equal(TraceStore(url, KEY, tmp_path / "third").read(named("ccc")), as_read(traces("ccc")[named("ccc")]))


def test_a_url_that_nothing_opens(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot open 'nowhere://bucket' \(Protocol not known: nowhere"):
        TraceStore("nowhere://bucket", KEY, tmp_path)
    with pytest.raises(ValueError, match=r"'memory://traces' is not on this machine: say where copies"):
        TraceStore("memory://traces", KEY)


def test_the_manifest_carries_what_the_traces_depend_on(tmp_path: Path) -> None:
    TraceStore(tmp_path, KEY).write(traces("a", "bb"))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["key"] == {
        "source": "mpt",
        "llm": "weights",
        "tokenizer": "surface",
        "top_k": 3,
        "format_version": 2,
    }
    assert manifest["codec"] == "bits-1"
    assert manifest.keys() == {"key", "codec"}


def test_traces_of_another_codec_are_refused(tmp_path: Path) -> None:
    TraceStore(tmp_path, KEY).write(traces("a"))
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace("bits-1", "bits-9"))
    with pytest.raises(ValueError, match=r"made with codec='bits-9', this run wants 'bits-1': .*knowfuse\.prepare"):
        TraceStore(tmp_path, KEY)


def test_the_first_format_is_refused(tmp_path: Path) -> None:
    """Its folder has another name, and a manifest of its shape names its version."""
    key = {**asdict(KEY), "format_version": 1}
    (tmp_path / "manifest.json").write_text(json.dumps({"key": key, "shards": [], "set_aside": {}}))
    with pytest.raises(ValueError, match=r"made with format_version=1, this run wants 2"):
        TraceStore(tmp_path, KEY)


@pytest.mark.parametrize("kept", [0, 40, 100])
def test_a_manifest_cut_off_is_named(tmp_path: Path, kept: int) -> None:
    """Without it nothing is lost: what is there says itself which documents it has."""
    TraceStore(tmp_path, KEY).write(traces("a"))
    path = tmp_path / "manifest.json"
    path.write_bytes(path.read_bytes()[:kept])
    message = r"'/.*manifest\.json' is cut off or damaged \(.*\): remove it and run the same command again"
    with pytest.raises(ValueError, match=message):
        TraceStore(tmp_path, KEY)
    path.unlink()
    store = TraceStore(tmp_path, KEY)
    assert_equal(store.read(named("a")), as_read(traces("a")[named("a")]))
    store.write(traces("bb"))
    assert json.loads(path.read_text())["key"] == KEY.parts


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (0, r"JSONDecodeError: .*"),
        (60, r"JSONDecodeError: .*"),
        (-5, r"EOFError: it has 19 bytes of ids, 2 documents take 24"),
        (None, r"EOFError: its ids have sha256 \w+, \w+ was written"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, kept: int | None, reason: str) -> None:
    """Cut off, or with another id in it; without that file its documents are read again, and the others stay."""
    store = TraceStore(tmp_path, KEY)
    store.write(traces("a", "bb"))
    store.write(traces("ccc"))
    path = tmp_path / "shard-00000.index"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept] if kept is not None else whole[:-1] + b"\xff")
    message = (
        rf"'/.*shard-00000\.index' is cut off or damaged \({reason}\): remove it and run python -m knowfuse\.prepare with "
        "this run's settings, which reads its documents again"
    )
    with pytest.raises(ValueError, match=message):
        TraceStore(tmp_path, KEY)
    path.unlink()
    store = TraceStore(tmp_path, KEY)
    assert missing(store, "a", "bb", "ccc") == {"a", "bb"}
    store.write(traces("a", "bb"))
    assert not missing(TraceStore(tmp_path, KEY), "a", "bb", "ccc")


def test_files_are_only_added(tmp_path: Path) -> None:
    """What a shard's index takes does not depend on what was there before, and no file is written again."""
    store, before = TraceStore(tmp_path, KEY), dict[str, tuple[int, int]]()
    for n in range(5):
        store.write(traces(f"{n} a", f"{n} b"))
        store.put_aside({named(f"{n} x"): "900 tokens"})
        now = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
        assert now.keys() - before.keys() >= {
            f"shard-{n:05d}.safetensors",
            f"shard-{n:05d}.index",
            f"aside-{n:05d}.json",
        }
        assert before.items() <= now.items()
        before = now
    sizes = {(tmp_path / f"shard-{n:05d}.index").stat().st_size for n in range(5)}
    assert len(sizes) == 1
    assert len(TraceStore(tmp_path, KEY).set_aside) == 5


def test_a_store_sees_what_others_write_and_reads_no_index_twice(tmp_path: Path) -> None:
    one, other = (TraceStore(tmp_path, KEY, writer=writer) for writer in ("0-of-2", "1-of-2"))
    one.write(traces("a"))
    other.write(traces("bb"))
    (tmp_path / "shard-0-of-2-00000.index").write_bytes(b"no store reads this that has read it")
    one.refresh()
    assert not missing(one, "a", "bb")
    assert_equal(one.read(named("bb")), as_read(traces("bb")[named("bb")]))
    with pytest.raises(KeyError):
        one.read(named("x"))


def second_format(folder: Path) -> None:
    """A store as it was written before there were indices: two writers' manifests that list all documents."""
    for writer, words in (("", ("a", "bb")), ("-1-of-2", ("ccc",))):
        store = TraceStore(folder, KEY, writer=writer.removeprefix("-"))
        store.write(traces(*words))
        (shard,) = (s for s in store._shards.values() if s.file == f"shard{writer}-00000.safetensors")
        listed = {"file": shard.file, "documents": [named(w) for w in words], "tokens": 0, "sha256": shard.sha256}
        manifest = {
            "key": asdict(KEY),
            "codec": "bits-1",
            "shards": [listed],
            "set_aside": {named(f"x{writer}"): "long"},
        }
        (folder / f"shard{writer}-00000.index").unlink()
        (folder / "manifest.json").unlink()
        (folder / f"manifest{writer}.new").write_text(json.dumps(manifest))
    for writer in ("", "-1-of-2"):
        (folder / f"manifest{writer}.new").rename(folder / f"manifest{writer}.json")


def test_a_store_with_manifests_of_all_documents_is_upgraded(tmp_path: Path) -> None:
    """Its traces are not read again; killed half way it is upgraded by the next."""
    second_format(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("knowfuse.traces.place.Folder.remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            TraceStore(tmp_path, KEY)
    for _ in range(2):
        store = TraceStore(tmp_path, KEY)
        assert missing(store, "a", "bb", "ccc", "x", "x-1-of-2", "y") == {"y"}
        assert store.set_aside == {named("x"): "long", named("x-1-of-2"): "long"}
        for word in ("a", "bb", "ccc"):
            assert_equal(store.read(named(word)), as_read(traces(word)[named(word)]))
    assert [path.name for path in tmp_path.glob("manifest*")] == ["manifest.json"]
    assert json.loads((tmp_path / "manifest.json").read_text()).keys() == {"key", "codec"}


def test_a_store_of_the_second_format_that_is_only_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second_format(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("knowfuse.traces.place.Folder.write", refuse)
    with pytest.raises(
        OSError, match=r"lists all documents.* cannot be written \(.*Read-only.*\): run python -m knowfuse"
    ):
        TraceStore(tmp_path, KEY)
