"""A place of traces is a name, here or behind a URL, and one that cannot be reached is said so."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from knowfuse.traces.place import Folder

ODD_NAMES = ["traces[k64]", "a*b?", "one two", "50%20", "#1", "[!x]", "\u00fcn\u00ef{c}", "k=1,top=2"]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("where", ["{folder}", "file://{folder}", "memory://{folder}"])
def test_a_place_is_a_name_and_never_a_pattern(tmp_path: Path, where: str, name: str) -> None:
    """Beside it lies a folder that would fit were it one."""
    root = where.format(folder=tmp_path)
    folder = Folder(f"{root}/{name}/x", tmp_path / "copies")
    for other in ("tracesk", "aab1", "one", "x", "n"):
        Folder(f"{root}/{other}/x", tmp_path / "copies").write("manifest-9.json", b"other")
    assert folder.names("*") == []
    for file in ("manifest-1.json", "manifest[2].json", "shard-1.bin"):
        folder.write(file, file.encode())
    assert folder.names("manifest*.json") == ["manifest-1.json", "manifest[2].json"]
    assert folder.names("manifest[[]2].json") == ["manifest[2].json"]
    assert folder.exists("manifest[2].json")
    assert folder.read("manifest[2].json") == b"manifest[2].json"
    assert folder.local("shard-1.bin", "ab" * 32).read_bytes() == b"shard-1.bin"
    folder.remove("manifest[2].json")
    assert folder.names("*") == ["manifest-1.json", "shard-1.bin"]


def test_a_folder_behind_http_is_read_by_its_url(tmp_path: Path) -> None:
    """By the server of Python's library, over this machine alone."""
    pytest.importorskip("aiohttp")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.json").write_bytes(b"{}")
    serve = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        folder = Folder(f"http://127.0.0.1:{server.server_port}/there/", tmp_path / "copies")
        assert folder.names("*.json") == ["a.json"]
        assert folder.read("a.json") == b"{}"
        assert not folder.exists("b.json")
        server.shutdown()


def test_a_place_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'ftp://127\.0\.0\.1:9/x' cannot be reached \(.*refused\): check its name"):
        Folder("ftp://127.0.0.1:9/x", tmp_path)
    pytest.importorskip("aiohttp")
    with pytest.raises(ValueError, match=r"'http://127\.0\.0\.1:9/x' cannot be reached \(.*\): check its name"):
        Folder("http://127.0.0.1:9/x", tmp_path).names("*")
