"""An exported folder and the hub: a private repository where it is asked for, and what is said where it cannot be had."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_for_tests import TOKEN, Hub, hub_at

from knowfuse.export.pushing import push, require_pushable


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    (tmp_path / "hub" / "me" / "taken").mkdir(parents=True)
    with hub_at(tmp_path / "hub", monkeypatch) as server:
        yield server


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_private_repository_is_made_with_what_is_in_the_folder(
    hub: Hub, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    folder = tmp_path / "mine"
    (folder / "of").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# it")
    (folder / "of" / "weights").write_bytes(b"\0\1")
    name = require_pushable("new", kind)  # type: ignore[arg-type]
    assert name == "me/new"
    assert not hub.made, "nothing is made before there is something to put into it"
    assert push(folder, name, kind).endswith("me/new")  # type: ignore[arg-type]
    (made,) = hub.made
    assert (made["name"], made["organization"], made.get("type", "model")) == ("new", "me", kind)
    assert made.get("private") is True or made.get("visibility") == "private"
    there = {
        p.relative_to(hub.root / "me/new").as_posix(): p for p in (hub.root / "me" / "new").rglob("*") if p.is_file()
    }
    assert there.keys() == {"README.md", "of/weights"}
    assert all(path.read_bytes() == (folder / name).read_bytes() for name, path in there.items())


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("new", None, "'new', and this machine has no token of the hub: run hf auth login, or set HF_TOKEN"),
        ("a b", TOKEN, "'a b', which names no repository: give <name> or <organisation>/<name>"),
        ("new", "hf_wrong", "does not take it .*: run hf auth login with a token that may write"),
        ("taken", TOKEN, "has me/taken already, and nothing is overwritten: set push_to_hub to another name"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_anything_is_written(
    hub: Hub, name: str, token: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ValueError, match=message):
        require_pushable(name, "model")
    assert not hub.made


def test_without_network_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set: unset it, or leave push_to_hub out"):
        require_pushable("new", "model")


def test_a_folder_that_did_not_get_there_can_be_sent_again(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ValueError, match=r"does not take it .*: the folder is whole: run hf upload me/new .* --private"
    ):
        push(tmp_path, "me/new", "model")
