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
    monkeypatch.setattr("knowfuse.files.lock_file", None)
    assert MapStore(tmp_path)("a", dict)["ids"].tolist() == [0, 1, 2, 3, 4, 5]
    path = tmp_path / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    message = r"'/.*a\.safetensors' is cut off or damaged \(SafetensorError: .*\): remove it and run the same command"
    with pytest.raises(ValueError, match=message):
        MapStore(tmp_path)("a", dict)
