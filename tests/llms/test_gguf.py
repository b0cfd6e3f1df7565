"""A GGUF file becomes a folder of transformers, once, with what transformers makes of it bit by bit."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_for_tests import CHAT_TEMPLATE, write_gguf
from models_for_tests import tiny_llm
from tokenizers_for_tests import neox
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from knowfuse.export import export
from knowfuse.llms.gguf_parts import join
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.surface.hard_texts import HARD_TEXTS
from knowfuse.types import LLMSpec


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; `tiny.gguf` and the same in three files of gguf-split."""
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "tiny.gguf")
    assert len(write_gguf(folder / "split.gguf", parts=3)) == 3
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def of(gguf: Path, cache: Path, file: Any = "tiny.gguf", **spec: Any) -> LocalLLM:
    return localize("mine", LLMSpec(path=str(gguf), gguf_file=file, **spec), cache)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_are_those_that_transformers_loads(gguf: Path, cache: Path, dtype: Any) -> None:
    """In its dtype, by plain transformers from the folder, and by us."""
    llm = of(gguf, cache, dtype=dtype)
    wanted = AutoModelForCausalLM.from_pretrained(
        gguf,
        gguf_file="tiny.gguf",
        dtype=getattr(torch, dtype),
        quantization_config=GgufConfig(dequantize=True),
    ).state_dict()
    for got in (llm.load(), AutoModelForCausalLM.from_pretrained(llm.folder, dtype=dtype)):
        state = got.state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[key], wanted[key]) for key in wanted)
        assert {tensor.dtype for tensor in state.values()} == {getattr(torch, dtype)}


def test_tokenizer_template_and_configurations_come_along(gguf: Path, cache: Path) -> None:
    """The hard texts are cut alike."""
    llm = of(gguf, cache)
    wanted = AutoTokenizer.from_pretrained(gguf, gguf_file="tiny.gguf")
    got = llm.tokenizer()
    for text in HARD_TEXTS.values():
        assert got(text).input_ids == wanted(text).input_ids
    assert got.chat_template == CHAT_TEMPLATE
    assert got.eos_token == wanted.eos_token == "<|endoftext|>"
    assert llm.context_length() == 128
    assert llm.surface().vocabulary_size == len(wanted)
    assert (llm.folder / "generation_config.json").exists()
    assert not list(llm.folder.glob("*.gguf"))


def test_what_was_trained_from_it_is_exported(gguf: Path, cache: Path, tmp_path: Path) -> None:
    """Plain transformers loads it, with the logits it had; without conversion it refuses to save such a model."""
    llm, ids = of(gguf, cache), torch.arange(1, 33)[None]
    model = llm.load().train()
    before = model(input_ids=ids).logits
    before.logsumexp(-1).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    export(model.eval(), llm, tmp_path / "mine")
    with torch.no_grad():
        want = model(input_ids=ids).logits
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "mine")(input_ids=ids).logits, want)
    assert not torch.equal(before, want), "it has learned"
    assert AutoTokenizer.from_pretrained(tmp_path / "mine").chat_template == CHAT_TEMPLATE


def test_it_is_converted_once_by_its_content(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under any name, from any place, out of a cache that may only be read; other content and another dtype are others."""
    cache = tmp_path / "cache"
    first = of(gguf, cache)
    assert first.folder.parent == cache / "gguf"
    assert first.folder.name.startswith("tiny-")
    (tmp_path / "moved").mkdir()
    os.link(gguf / "tiny.gguf", tmp_path / "moved" / "tiny.gguf")
    monkeypatch.setattr("knowfuse.files.lock_file", None)  # where something must be made, it is called
    again = localize("other", LLMSpec(path=str(tmp_path / "moved"), gguf_file="tiny.gguf"), cache)
    assert (again.folder, again.fingerprint) == (first.folder, first.fingerprint)
    with pytest.raises(TypeError, match="not callable"):
        of(gguf, cache, dtype="bfloat16")
    write_gguf(tmp_path / "tiny.gguf", seed=1)
    with pytest.raises(TypeError, match="not callable"):
        of(tmp_path, cache)


def test_the_fingerprint_is_of_the_content(gguf: Path, cache: Path, tmp_path: Path) -> None:
    """The same in another cache, and of the same file in parts; another for other weights."""
    mine = of(gguf, cache).fingerprint
    assert of(gguf, tmp_path / "another").fingerprint == mine
    assert of(gguf, cache, "split-00001-of-00003.gguf").fingerprint == mine
    write_gguf(tmp_path / "tiny.gguf", seed=1)
    assert of(tmp_path, cache).fingerprint != mine


# ---- parts ------------------------------------------------------------------------------------------------------

SPLIT = [f"split-0000{n}-of-00003.gguf" for n in (1, 2, 3)]


def pieces(gguf: Path, folder: Path) -> list[str]:
    """The bytes of the file in three pieces."""
    data = (gguf / "tiny.gguf").read_bytes()
    names = [f"tiny.gguf-split-{letter}" for letter in "abc"]
    for n, name in enumerate(names):
        (folder / name).write_bytes(data[n * 9000 : (n + 1) * 9000 if n < 2 else None])
    return names


def test_files_of_gguf_split_are_put_together(gguf: Path, cache: Path) -> None:
    """All of them as a list, and any one of them as the name of all: the folder of the whole file, byte by byte."""
    whole = of(gguf, cache).folder
    for files in (SPLIT, SPLIT[0], SPLIT[2]):
        folder = of(gguf, cache, files).folder
        assert folder.name.startswith("split-")
        for file in whole.iterdir():
            assert (folder / file.name).read_bytes() == file.read_bytes(), file.name
        assert {p.name for p in folder.iterdir()} == {p.name for p in whole.iterdir()}


def test_pieces_of_one_file_are_put_together(gguf: Path, cache: Path, tmp_path: Path) -> None:
    """In the order in which they are listed."""
    names = pieces(gguf, tmp_path)
    assert of(tmp_path, cache, names).fingerprint == of(gguf, cache).fingerprint
    join([tmp_path / name for name in names], tmp_path / "whole.gguf")
    assert (tmp_path / "whole.gguf").read_bytes() == (gguf / "tiny.gguf").read_bytes()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            SPLIT[:2],
            r"part 3 of 3 \(split-00003-of-00003\.gguf\) is not among split-00001-.*: list all of them, in order",
        ),
        ([SPLIT[0], SPLIT[2]], r"part 2 of 3 \(split-00002-of-00003\.gguf\) is not among "),
        ([SPLIT[1], SPLIT[0], SPLIT[2]], r"are parts 2, 1, 3 of 3: list each once, in order"),
        ([*SPLIT, SPLIT[0]], r"are parts 1, 2, 3, 1 of 3: list each once, in order"),
        (["tiny.gguf", "tiny.gguf"], r"tiny.gguf, tiny.gguf are parts 1, 1 of 1: list each once, in order"),
        ([SPLIT[0]], r"part 2 of 3 \(split-00002-of-00003\.gguf\) is not among split-00001-of-00003\.gguf: list all"),
        (
            ["split-00001-of-00004.gguf"],
            r"'split-00001-of-00004.gguf' of its `gguf_file:` is not in .* \(1 of 1 missing\)",
        ),
        (
            "split-00001-of-00004.gguf",
            r"'split-00001-of-00004.gguf' of its `gguf_file:` is not in .* \(4 of 4 missing\)",
        ),
        ("none.gguf", r"'none.gguf' of its `gguf_file:` is not in /.*: put it there, or name the files that are there"),
        (
            ["b", "a", "c"],
            r"'b' does not begin as a GGUF file does: list the files of gguf-split, or the pieces of one",
        ),
        (
            ["a", "c"],
            r"its GGUF file cannot be read from /.* \(a, c; .*\): its `gguf_file:` must name a whole file, or all",
        ),
        (
            "short.gguf",
            r"cannot be read from /.* \(short\.gguf; ValueError: cannot reshape array .*\): its `gguf_file:` must",
        ),
        ("head.gguf", r"'head.gguf' is cut off within its header \(.*\): its `gguf_file:` must name a whole file"),
        ("empty.gguf", r"'empty.gguf' does not begin as a GGUF file does"),
        ("new.gguf", r"GGUF model with architecture bogus is not supported"),
    ],
)
def test_parts_that_are_not_a_whole_file_are_named(gguf: Path, tmp_path: Path, files: Any, message: str) -> None:
    """And nothing of them stays in the cache."""
    for name in SPLIT:
        os.link(gguf / name, tmp_path / name)
    data = (gguf / "tiny.gguf").read_bytes()
    made = {"a": data[:9000], "b": data[9000:20000], "c": data[20000:], "tiny.gguf": data, "empty.gguf": b""}
    for name, content in (made | {"short.gguf": data[:-100], "head.gguf": data[:5000]}).items():
        (tmp_path / name).write_bytes(content)
    write_gguf(tmp_path / "new.gguf", architecture="bogus")
    with pytest.raises(ValueError, match=message) as error:
        of(tmp_path, tmp_path / "cache", files)
    assert str(error.value).startswith("LLM 'mine'")
    assert "\n" not in str(error.value)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_dir() and p.name != "gguf"]


def test_without_the_package_the_message_says_what_to_install(
    gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"^LLM 'mine' comes from a GGUF file, and the package gguf.*'\.\[gguf\]'$"):
        of(gguf, cache)


def test_a_tokenizer_that_is_named_serves_in_the_place_of_the_files(gguf: Path, tmp_path: Path) -> None:
    """Even where the file's own cannot be read."""
    neox().save_pretrained(tmp_path / "tokenizer")
    llm = of(gguf, tmp_path / "cache", tokenizer=str(tmp_path / "tokenizer"))
    assert llm.surface().vocabulary_size == len(neox())


def test_a_folder_without_a_gguf_file_needs_no_cache(tmp_path: Path, gguf: Path) -> None:
    tiny_llm("llama", 64).save_pretrained(tmp_path)
    assert localize("mine", LLMSpec(path=str(tmp_path))).folder == tmp_path
    with pytest.raises(
        ValueError, match="LLM 'mine' comes from a GGUF file, which is converted into a cache: say which"
    ):
        localize("mine", LLMSpec(path=str(gguf), gguf_file="tiny.gguf"))
