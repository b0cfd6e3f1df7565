"""What `benchmarks/crash.py` and `resume.py` take for whole, and for the same."""

import signal
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from crash import corrupt
from disturbed import WhileWriting, same
from safetensors.numpy import save_file
from torch import tensor

from knowfuse.files import write_whole


@pytest.mark.parametrize("name", ["a.json", "fit/last.ckpt", "shard-0.safetensors", "report.html", "config.yaml"])
def test_a_file_that_is_cut_off_is_corrupt(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".ckpt":
        torch.save({"a": torch.zeros(100)}, file)
    elif file.suffix == ".safetensors":
        save_file({"a": torch.zeros(100).numpy()}, file)
    else:
        file.write_text({".json": '{"a": [1, 2]}', ".html": "<html><p></html>", ".yaml": "a: [1, 2]"}[file.suffix])
    assert corrupt(tmp_path) == []
    file.write_bytes(file.read_bytes()[:-2])
    assert corrupt(tmp_path) == [name]
    file.rename(file.with_name(f"{file.name}.12.part"))
    assert corrupt(tmp_path) == [], "beside its place it may be"


def test_the_same_is_the_same_to_the_last_bit() -> None:
    one = {"a": [tensor([1.0, 2.0]), (1, "x")], "b": None}
    assert same(one, {"b": None, "a": [tensor([1.0, 2.0]), (1, "x")]})
    for other in (tensor([1.0, 2.0 + 1e-6]), tensor([1.0, 2.0]).double(), tensor([1.0])):
        assert not same(one, {"a": [other, (1, "x")], "b": None})
    assert not same(one, {"a": [tensor([1.0, 2.0]), (2, "x")], "b": None})
    assert not same(one, {"a": one["a"]})


def _writes(folder: Path) -> None:
    WhileWriting("two", 3, delay_s=0.0)(0)
    for name in ("one", "two", "three"):
        write_whole(folder / name, b"all of it")


def test_a_kill_comes_while_the_file_is_written(tmp_path: Path) -> None:
    """At its third change, which moves it into its place: it is whole beside it, and what came before is there."""
    process = get_context("fork").Process(target=_writes, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    one, two = sorted(tmp_path.iterdir())
    assert (one.name, two.name[:4], two.suffix) == ("one", "two.", ".part")
    assert two.read_bytes() == b"all of it"
