"""Maps between two tokenizers are made once, and found again by a process that may only read."""

from pathlib import Path

import numpy as np
import pytest

from knowfuse.traces.maps import MapStore


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
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    assert names - {"nearest-1.safetensors.lock"} == {"nearest-1.safetensors"}


def test_a_filled_store_of_maps_is_read_without_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only file system; a map cut off is named."""
    MapStore(tmp_path)("a", lambda: {"ids": np.arange(6)})
    monkeypatch.setattr("knowfuse.files.FileLock", None)
    assert MapStore(tmp_path)("a", dict)["ids"].tolist() == [0, 1, 2, 3, 4, 5]
    path = tmp_path / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    message = r"'/.*a\.safetensors' is cut off or damaged \(SafetensorError: .*\): remove it and run the same command"
    with pytest.raises(ValueError, match=message):
        MapStore(tmp_path)("a", dict)


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
        patch.setattr("knowfuse.files.Folder.remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
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

    monkeypatch.setattr("knowfuse.files.Folder.write", refuse)
    with pytest.raises(
        OSError, match=r"lists all documents.* cannot be written \(.*Read-only.*\): run python -m knowfuse"
    ):
        TraceStore(tmp_path, KEY)
