"""Which files of an LLM are read, what moves its fingerprint, and what does not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import tiny_llm
from tokenizers_for_tests import llama, neox

from knowfuse.llms.files import files_in, llm_files
from knowfuse.llms.local import localize
from knowfuse.types import LLMSpec

HUB = [
    *("config.json", "generation_config.json", "README.md", "LICENSE.txt", ".gitattributes", "trainer_state.json"),
    *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "consolidated.00.pth", "consolidated.safetensors", "model.fp16.safetensors", "optimizer.pt"),
    *("training_args.bin", "original/params.json", "original/tokenizer.model", "onnx/model.onnx", "onnx/config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "additional_chat_templates/tool_use.jinja", "qwen.tiktoken"),
    *("modeling_mine.py", "parts/rope.py", "words.txt", "model-Q4_K_M.gguf"),
]
SHARDS = {"weight_map": {"a": "model-00002-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}}
READ = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(SHARDS).encode()}


def test_of_a_repository_what_transformers_reads_is_taken() -> None:
    """One format of weights, nothing of other programs; code, and what it may read, where it is trusted; what says the licence."""
    needed = {
        *("README.md", "config.json", "generation_config.json", "model.safetensors.index.json"),
        *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
        *(
            "vocab.json",
            "merges.txt",
            "chat_template.jinja",
            "additional_chat_templates/tool_use.jinja",
            "qwen.tiktoken",
        ),
    }
    assert set(llm_files(HUB, READ.__getitem__, is_trusted=False).all()) == needed
    with_code = {"modeling_mine.py", "parts/rope.py", "words.txt", "trainer_state.json"}
    assert set(llm_files(HUB, READ.__getitem__, is_trusted=True).all()) == needed | with_code


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["pytorch_model.bin", "model.safetensors", "model.safetensors.index.json"], ["model.safetensors"]),
        (["pytorch_model.bin", "model.fp16.safetensors", "training_args.bin"], ["pytorch_model.bin"]),
        (["tokenizer.json"], []),
    ],
)
def test_the_weights_are_of_the_format_that_transformers_takes(names: list[str], weights: list[str]) -> None:
    assert llm_files(names, READ.__getitem__, is_trusted=False).weights == weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny LLM in two files of weights, with a chat template."""
    tokenizer = llama()
    tokenizer.chat_template = "{{ messages }}"
    tiny_llm("llama", len(tokenizer)).save_pretrained(tmp_path / "llm", max_shard_size="60KB")
    tokenizer.save_pretrained(tmp_path / "llm")
    assert len(files_in(tmp_path / "llm", is_trusted=False).weights) >= 2
    return tmp_path / "llm"


def rewritten(file: str, **changes: Any) -> Callable[[Path], Any]:
    """A JSON file with other values, and another layout."""
    return lambda folder: (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))


def written(file: str, content: str = "{}") -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(content)

    return write


def flip(file: str) -> Callable[[Path], Any]:
    """Another last byte."""
    return lambda folder: (folder / file).write_bytes(
        (data := (folder / file).read_bytes())[:-1] + bytes([data[-1] ^ 1])
    )


@pytest.mark.parametrize(
    "change",
    [
        written("generation_config.json", '{"temperature": 3}'),
        written("README.md", "other"),
        written("chat_template.jinja", "other"),
        written("additional_chat_templates/tools.jinja", "other"),
        written("trainer_state.json"),
        written("pytorch_model.bin", "not loaded"),
        written("model-00009-of-00009.safetensors", "not in the index"),
        written("modeling_mine.py", "not trusted"),
        written("original/params.json"),
        rewritten("config.json", transformers_version="9", torch_dtype="bfloat16", _name_or_path="elsewhere"),
        rewritten("tokenizer_config.json", chat_template="other"),
    ],
)
def test_what_does_not_decide_what_it_says_leaves_the_fingerprint(folder: Path, change: Callable[[Path], Any]) -> None:
    before = localize("mine", LLMSpec(path=str(folder))).fingerprint
    change(folder)
    assert localize("mine", LLMSpec(path=str(folder))).fingerprint == before


@pytest.mark.parametrize(
    "change",
    [
        flip("model-00001-of-00004.safetensors"),
        rewritten("config.json", rms_norm_eps=1e-3),
        rewritten("tokenizer_config.json", bos_token="</s>"),
        flip("tokenizer.json"),
        written("special_tokens_map.json", '{"eos_token": "<s>"}'),
    ],
)
def test_what_decides_what_it_says_moves_the_fingerprint(folder: Path, change: Callable[[Path], Any]) -> None:
    spec = LLMSpec(path=str(folder))
    before = localize("mine", spec).fingerprint
    change(folder)
    assert localize("mine", spec).fingerprint != before


def test_code_is_in_it_where_it_is_trusted(folder: Path) -> None:
    spec = LLMSpec(path=str(folder), trust_remote_code=True)
    without = localize("mine", spec).fingerprint
    written("parts/rope.py", "a = 1")(folder)
    one = localize("mine", spec).fingerprint
    written("parts/rope.py", "a = 2")(folder)
    assert len({without, one, localize("mine", spec).fingerprint}) == 3


def test_another_tokenizer_is_in_it_by_its_content(folder: Path, tmp_path: Path) -> None:
    """A folder or a tokenizer.json; the LLM's own is not read then."""
    neox().save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "same")

    def of(tokenizer: str | None) -> str:
        return localize("mine", LLMSpec(path=str(folder), tokenizer=tokenizer)).fingerprint

    own, other = of(None), of(str(tmp_path / "one"))
    assert own != other == of(str(tmp_path / "same"))
    assert of(str(tmp_path / "one" / "tokenizer.json")) != own
    flip("tokenizer.json")(folder)
    assert of(str(tmp_path / "one")) == other


def test_a_copy_and_the_hubs_cache_have_one_fingerprint(folder: Path, tmp_path: Path) -> None:
    """There the folder holds links to files that are named by their content."""
    import hashlib

    (blobs := tmp_path / "blobs").mkdir()
    (snapshot := tmp_path / "snapshots" / "abc").mkdir(parents=True)
    for file in folder.iterdir():
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    assert (
        localize("mine", LLMSpec(path=str(snapshot))).fingerprint
        == localize("mine", LLMSpec(path=str(folder))).fingerprint
    )


def test_checksums_of_large_files_are_remembered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And found out of date where the file changes."""
    monkeypatch.setattr("knowfuse.files.WORTH_REMEMBERING", 1000)
    monkeypatch.setattr("knowfuse.files.SETTLED_SECONDS", -1.0)
    read: list[str] = []
    from knowfuse.files import _read_sha256

    monkeypatch.setattr("knowfuse.files._read_sha256", lambda path: read.append(path.name) or _read_sha256(path))
    spec, cache = LLMSpec(path=str(folder)), tmp_path / "cache"
    first = localize("mine", spec, cache).fingerprint
    assert set(files_in(folder, is_trusted=False).weights) <= set(read)
    read.clear()
    assert localize("mine", spec, cache).fingerprint == first
    assert not [name for name in read if name.endswith(".safetensors")]
    flip("model-00001-of-00004.safetensors")(folder)
    assert localize("mine", spec, cache).fingerprint != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "model-00002-of-00004.safetensors").unlink(),
            r"\(model\.safetensors\.index\.json names model-00002-of-00004\.safetensors, which is not there \(1 of 4 are missing",
        ),
        (
            written("model.safetensors.index.json", "{}"),
            r"model\.safetensors\.index\.json has no weight_map, which says the",
        ),
        (written("model.safetensors.index.json", "[]"), r"model\.safetensors\.index\.json holds a list, not an object"),
        (written("tokenizer_config.json", "{"), r"tokenizer_config\.json is not JSON \(Expecting property name"),
        (written("adapter_config.json"), r"adapter_config\.json says that it is an adapter: merge it into its base"),
    ],
)
def test_files_that_are_not_whole_are_named_at_once(folder: Path, change: Callable[[Path], Any], message: str) -> None:
    change(folder)
    with pytest.raises(ValueError, match=rf"^LLM 'mine': its files cannot be read from {folder} .*{message}"):
        localize("mine", LLMSpec(path=str(folder)))


def test_sharded_weights_load_as_they_were(folder: Path) -> None:
    made = tiny_llm("llama", len(llama())).state_dict()
    state = localize("mine", LLMSpec(path=str(folder))).load().state_dict()
    assert all(torch.equal(state[key], made[key]) for key in made)
