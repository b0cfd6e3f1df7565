"""Where an LLM comes from, and how it is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from experiments_for_tests import local_llm
from models_for_tests import ARCHITECTURES, tiny_llm
from safetensors.torch import load_file, save_file
from tokenizers_for_tests import llama, surface
from torch import Tensor

from knowfuse.llms.local import LocalLLM, localize
from knowfuse.types import LLMSpec

V = 64


# ---- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny LLM with its tokenizer, as `save_pretrained` writes them."""
    tokenizer = llama()
    tiny_llm("llama", len(tokenizer), context_length=96).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    return tmp_path / "llm"


def test_a_folder_is_loaded_as_it_was_saved(folder: Path) -> None:
    llm = localize("mine", LLMSpec(path=str(folder)))
    assert llm.name == "mine"
    assert llm.context_length() == 96
    its = llm.surface()
    assert its.name == "mine"
    assert its.fingerprint == surface("llama").fingerprint
    loaded, made = llm.load(), tiny_llm("llama", its.vocabulary_size, context_length=96)
    assert not loaded.training
    for (name, got), (_, want) in zip(loaded.state_dict().items(), made.state_dict().items(), strict=True):
        assert torch.equal(got, want), name
    half = localize("mine", LLMSpec(path=str(folder), dtype="bfloat16")).load()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_says_how_much_it_can_hold(architecture: str, tmp_path: Path) -> None:
    tiny_llm(architecture, V, context_length=77).save_pretrained(tmp_path)
    assert localize("mine", LLMSpec(path=str(tmp_path))).context_length() == 77


def test_the_fingerprint_is_of_the_content(folder: Path) -> None:
    """It moves with one weight, the tokenizer, the dtype; not with the name or the place of the folder."""
    spec = LLMSpec(path=str(folder))
    before = localize("mine", spec).fingerprint
    assert localize("other", LLMSpec(path=str(folder.rename(folder.with_name("moved"))))).fingerprint == before
    folder.with_name("moved").rename(folder)
    assert localize("mine", LLMSpec(path=str(folder), dtype="bfloat16")).fingerprint != before
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    changed = localize("mine", spec).fingerprint
    assert changed != before
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    assert localize("mine", spec).fingerprint not in (before, changed)


def test_a_file_in_the_place_of_a_folder(folder: Path) -> None:
    file = folder / "model.safetensors"
    with pytest.raises(
        ValueError, match=rf"^LLM 'mine': '{file}' is a file: give its folder as `path:`, a GGUF file as"
    ):
        localize("mine", LLMSpec(path=str(file)))


def test_what_is_no_causal_llm_is_refused(tmp_path: Path) -> None:
    """An image model, and a configuration that says neither of what kind it is nor of which class."""
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"^LLM 'mine': its weights cannot be read .*ViTConfig.*must hold all the files of"
    ):
        localize("mine", LLMSpec(path=str(tmp_path))).load()
    (tmp_path / "config.json").write_text('{"vocab_size": 64}')
    with pytest.raises(
        ValueError, match=r"^LLM 'mine': its weights cannot be read .*Unrecognized model .*must hold all"
    ):
        localize("mine", LLMSpec(path=str(tmp_path))).load()


def test_a_configuration_without_architectures_is_read_by_its_model_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    assert type(localize("mine", LLMSpec(path=str(folder))).load()).__name__ == "LlamaForCausalLM"


# ---- what cannot be read ----------------------------------------------------------------------------------------


def cut(file: str, keep: int) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:keep])


def remove(*files: str) -> Callable[[Path], Any]:
    return lambda folder: [(folder / file).unlink(missing_ok=True) for file in files]


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@pytest.mark.parametrize(
    ("spoil", "read", "what", "reason"),
    [
        (remove(*TOKENIZER_FILES), "surface", "tokenizer", "ValueError: there is no tokenizer.json, nor"),
        (cut("tokenizer.json", 1), "surface", "tokenizer", "JSONDecodeError: Expecting property name"),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), "surface", "tokenizer", "TypeError: "),
        (remove("config.json"), "context_length", "configuration", "ValueError: Unrecognized model"),
        (cut("config.json", 1), "context_length", "files", "config.json is not JSON (Expecting property name"),
        (remove("config.json"), "load", "weights", "ValueError: Unrecognized model"),
        (remove("model.safetensors"), "load", "weights", "OSError: Error no file named model.safetensors"),
        (cut("model.safetensors", -100), "load", "weights", "SafetensorError: Error while deserializing header"),
        (cut("model.safetensors", 0), "load", "weights", "SafetensorError: Error while deserializing header"),
    ],
)
def test_files_that_cannot_be_read_name_the_llm(
    folder: Path, spoil: Callable[[Path], Any], read: str, what: str, reason: str
) -> None:
    """The LLM, what of it, the folder, the library's own reason on one line, and what is wanted."""
    spoil(folder)
    with pytest.raises(ValueError, match=f"^LLM 'mine': its {what} cannot be read from {folder} ") as error:
        getattr(localize("mine", LLMSpec(path=str(folder))), read)()
    said = str(error.value)
    assert f"({reason}" in said
    assert said.endswith(
        {
            "tokenizer": "): give a folder or a hub id with a whole tokenizer as its `tokenizer:`",
            "configuration": "): its `path:` must hold the config.json of a causal LLM",
            "weights": "): its `path:` must hold all the files of a causal LLM, whole",
            "files": "): its `path:` must hold all the files of a causal LLM, whole",
        }[what]
    )
    assert "\n" not in said


@pytest.mark.parametrize("tokenizer", ["/no/such/folder", "no-such-org/no-such-tokenizer"])
def test_a_tokenizer_that_does_not_exist_names_the_llm(folder: Path, tokenizer: str) -> None:
    message = rf"^LLM 'mine': '{tokenizer}' is (no folder here, and of the hub's|neither a folder here nor on the hub)"
    with pytest.raises(ValueError, match=message):
        localize("mine", LLMSpec(path=str(folder), tokenizer=tokenizer))


def test_our_own_refusals_are_not_taken_for_files_that_cannot_be_read(folder: Path) -> None:
    """A configuration without a context length, a tokenizer that has neither BOS nor EOS."""
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match=r"^the configuration of LLM 'mine' does not say how many tokens it can hold"):
        localize("mine", LLMSpec(path=str(folder))).context_length()
    with pytest.raises(
        ValueError, match=r"^the configuration of LLM 'mine' does not say how many tokens its model has"
    ):
        localize("mine", LLMSpec(path=str(folder))).rows()
    shutil.rmtree(folder)
    tokenizer = llama()
    tiny_llm("llama", len(tokenizer)).config.save_pretrained(folder)
    tokenizer.bos_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"^tokenizer 'mine' has neither BOS nor EOS"):
        localize("mine", LLMSpec(path=str(folder))).surface()


# ---- quantisation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_4_bits_compute_in_the_llms_dtype(folder: Path, dtype: Any) -> None:
    llm = localize("mine", LLMSpec(path=str(folder), dtype=dtype, quantization="4bit")).load()
    layers = [m for m in llm.modules() if isinstance(m, Linear4bit)]
    assert len(layers) == 14
    assert {m.compute_dtype for m in layers} == {getattr(torch, dtype)}


def test_a_4_bit_llm_that_was_scored_is_what_it_was(folder: Path) -> None:
    """On a CPU with AVX512-BF16 bitsandbytes would pack its weights anew in evaluation, and give no gradient from then on."""
    llm = localize("mine", LLMSpec(path=str(folder), quantization="4bit")).load()
    hidden = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(0))

    def gradient() -> Tensor:
        mine = hidden.clone().requires_grad_()
        llm.train()(inputs_embeds=mine).logits.logsumexp(-1).sum().backward()
        assert mine.grad is not None
        return mine.grad

    before, ids = gradient(), torch.arange(1, 9)[None]
    with torch.no_grad():
        in_training, in_evaluation = llm.train()(input_ids=ids).logits, llm.eval()(input_ids=ids).logits
    assert torch.equal(in_training, in_evaluation)
    assert torch.equal(gradient(), before)


def test_a_configuration_of_more_layers_than_there_are_weights_is_refused(tmp_path: Path) -> None:
    """transformers would make the rest of them up, and only print it."""
    llm = local_llm(tmp_path / "mine")
    config = json.loads((llm.folder / "config.json").read_text())
    (llm.folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(
        ValueError, match=r"LLM 'mine': 9 weights .* the first 'model\.layers\.2\..*', and would be random"
    ):
        localize("mine", LLMSpec(path=str(llm.folder))).load()


# ---- vocabularies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [-3, 0, 5])
def test_what_can_be_used_is_what_tokenizer_and_model_both_have(tmp_path: Path, more: int) -> None:
    """Known without looking at a weight."""
    tokenizer = llama()
    tiny_llm("llama", len(tokenizer) + more).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    its = LocalLLM("mine", LLMSpec(path=str(tmp_path)), "none").surface()
    assert its.rows == len(tokenizer) + more
    assert its.usable == len(tokenizer) + min(more, 0)
    assert its.vocabulary_size == len(tokenizer)


@pytest.mark.parametrize("more", [-8, 8])
def test_weights_of_another_vocabulary_than_the_configuration_are_refused(tmp_path: Path, more: int) -> None:
    llm = local_llm(tmp_path / "mine")
    config = json.loads((llm.folder / "config.json").read_text())
    (llm.folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + more}))
    with pytest.raises(ValueError, match=r"^LLM 'mine': its weights cannot be read from .*: its `path:` must hold all"):
        localize("mine", LLMSpec(path=str(llm.folder))).load()


def test_special_tokens_without_a_row_begin_and_end_no_text(tmp_path: Path) -> None:
    """`</s>` is id 2, and the model has two rows; another EOS, or none, is as good."""
    tokenizer = llama()
    tiny_llm("llama", 2).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    message = r"^LLM 'mine': its EOS '</s>' is token id 2, but its model embeds only the ids below 2: set its `eos:` to"
    with pytest.raises(ValueError, match=message):
        localize("mine", LLMSpec(path=str(tmp_path))).surface()
    assert localize("mine", LLMSpec(path=str(tmp_path), eos=None)).surface().eos_id is None


# ---- where a text begins and ends -------------------------------------------------------------------------------


def test_bos_and_eos_of_the_spec_win_and_make_another_surface(tmp_path: Path) -> None:
    llm = local_llm(tmp_path / "mine")
    own, other = llm.surface(), localize("mine", LLMSpec(path=str(llm.folder), bos="</s>", eos="<unk>")).surface()
    assert (own.bos_id, own.eos_id, other.bos_id, other.eos_id) == (1, 2, 2, 0)
    assert len({own.fingerprint, other.fingerprint}) == 2
    tokens = other.tokenize("a text")
    assert (tokens.input_ids[0], tokens.input_ids[-1]) == (2, 0)
    bare = localize("mine", LLMSpec(path=str(llm.folder), eos=None)).surface()
    np.testing.assert_array_equal(bare.tokenize("a text").input_ids, own.tokenize("a text").input_ids[:-1])
    assert localize("mine", LLMSpec(path=str(llm.folder), eos="<unk>")).fingerprint == llm.fingerprint


def test_without_a_bos_a_text_begins_with_what_ends_it(tmp_path: Path) -> None:
    """The one that was asked for, or the tokenizer's where there is to be none."""
    llm = local_llm(tmp_path / "mine", "mpt")
    assert llm.tokenizer().bos_token is None
    end = llm.surface().eos_id
    assert llm.surface().bos_id == end
    bare = localize("mine", LLMSpec(path=str(llm.folder), eos=None)).surface()
    assert (bare.bos_id, bare.eos_id) == (end, None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"bos": "<bos>"},
            r"^tokenizer 'mine': bos '<bos>' is no token of its vocabulary: give one of its special tokens",
        ),
        (
            {"eos": "\u2581the"},
            r"^tokenizer 'mine': eos '\u2581the' is a piece of text, which documents hold: give one of",
        ),
    ],
)
def test_a_bos_or_eos_that_is_none_is_refused_by_name(folder: Path, spec: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        localize("mine", LLMSpec(path=str(folder), **spec)).surface()
    with pytest.raises(ValueError, match=r"bos is null: no row would predict a text's first token\. Name the token"):
        LLMSpec(path="x", bos=None)
