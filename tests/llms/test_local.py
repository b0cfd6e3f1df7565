"""Where an LLM comes from, and that packed documents are read as if each were alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from experiments_for_tests import local_llm
from models_for_tests import ARCHITECTURES, tiny_llm
from safetensors.torch import load_file, save_file
from tokenizers_for_tests import llama, surface
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from knowfuse.llms.local import localize, packed_logits, require_causal, require_isolated_documents
from knowfuse.types import LLMSpec

V = 64


def pack(lengths: list[int], padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random documents of these lengths in one block: ids, position ids, document ids."""
    total = sum(lengths)
    ids = torch.randint(0, V, (total,), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(n) for n in [*lengths, padding]])
    documents = torch.cat([torch.full((n,), k) for k, n in enumerate(lengths, 1)] + [torch.zeros(padding)]).long()
    return torch.cat([ids, torch.zeros(padding, dtype=torch.int64)])[None], positions[None], documents[None]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("padding", [0, 3])
def test_packed_documents_are_read_as_if_alone(architecture: str, padding: int) -> None:
    """Against a plain forward of each document; float32 with other shapes of matrix products: 1e-5."""
    llm, lengths = tiny_llm(architecture, V), [5, 9, 1, 6]
    block = pack(lengths, padding)
    with torch.no_grad():
        packed = packed_logits(llm, *block)[0]
        alone = [llm(input_ids=ids[None]).logits[0] for ids in block[0][0, : sum(lengths)].split(lengths)]
    torch.testing.assert_close(packed[: sum(lengths)], torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(packed).all()
    assert packed.std() > 0.1  # the logits say something that could differ


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_of_a_batch_do_not_meet(architecture: str) -> None:
    """Two blocks of other documents in one batch against each by itself."""
    llm = tiny_llm(architecture, V)
    one, other = pack([5, 9, 1, 6], 0), pack([12, 4], 5)
    with torch.no_grad():
        both = packed_logits(llm, *(torch.cat(pair) for pair in zip(one, other, strict=True)))
        each = torch.cat([packed_logits(llm, *one), packed_logits(llm, *other)])
    torch.testing.assert_close(both, each, rtol=1e-5, atol=1e-5)  # float32


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_stays_finite_where_a_row_may_look_at_little(architecture: str) -> None:
    llm = tiny_llm(architecture, V).bfloat16()
    with torch.no_grad():
        packed = packed_logits(llm, *pack([1, 1, 8], 6))
    assert packed.dtype == torch.bfloat16
    assert torch.isfinite(packed).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("was_training", [True, False])
def test_llms_with_a_document_mask_may_be_targets(architecture: str, was_training: bool) -> None:
    llm = tiny_llm(architecture, V).train(was_training)
    require_isolated_documents(llm, V)
    assert llm.training is was_training


class Maskless(nn.Module):
    """A Llama that is not told which tokens it may look at."""

    def __init__(self) -> None:
        super().__init__()
        self.llama = tiny_llm("llama", V)
        self.config = self.llama.config

    def forward(self, input_ids: Tensor, position_ids: Tensor, **_: object) -> object:
        return self.llama(input_ids=input_ids, position_ids=position_ids)


def test_llms_that_look_at_a_neighbour_are_refused() -> None:
    """A recurrent one, which carries its state on, and one that ignores the mask."""
    rwkv = RwkvForCausalLM(RwkvConfig(vocab_size=V, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2))
    for llm in (rwkv, Maskless()):
        with pytest.raises(ValueError, match=rf"{type(llm).__name__} lets a document see its neighbour .* cannot be a"):
            require_isolated_documents(llm, V)


@pytest.mark.parametrize("name", ["mamba", "bloom"])
def test_llms_that_take_no_document_mask_are_refused_by_name(name: str) -> None:
    if name == "mamba":
        llm = MambaForCausalLM(MambaConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2, state_size=8))
    else:
        llm = BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(ValueError, match=rf"{type(llm).__name__} does not take a mask .* cannot be a target"):
        require_isolated_documents(llm, V)


def test_an_llm_whose_logits_are_not_finite_is_told_so() -> None:
    """Not that it lets a document see its neighbour."""
    llm = tiny_llm("llama", V)
    llm.model.norm.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"^the logits of LlamaForCausalLM are NaN or infinite: check its weights and"):
        require_isolated_documents(llm, V)


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


@pytest.mark.parametrize("path", ["no-such-org/no-such-llm", "./no/such/folder/here", "/gone"])
def test_a_path_that_is_neither_a_folder_nor_on_the_hub(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=rf"LLM 'mine': '{path}' is neither a folder here nor on the hub"):
        localize("mine", LLMSpec(path=path))


# ---- what cannot be read ----------------------------------------------------------------------------------------


def cut(file: str, keep: int) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:keep])


def remove(*files: str) -> Callable[[Path], Any]:
    return lambda folder: [(folder / file).unlink(missing_ok=True) for file in files]


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@pytest.mark.parametrize(
    ("spoil", "read", "what", "reason"),
    [
        (remove(*TOKENIZER_FILES), "surface", "tokenizer", "ValueError: Couldn't instantiate"),
        (cut("tokenizer.json", 1), "surface", "tokenizer", "JSONDecodeError: Expecting property name"),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), "surface", "tokenizer", "TypeError: "),
        (remove("config.json"), "context_length", "configuration", "ValueError: Unrecognized model"),
        (cut("config.json", 1), "context_length", "configuration", "OSError: It looks like the config file"),
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
        }[what]
    )
    assert "\n" not in said


@pytest.mark.parametrize("tokenizer", ["/no/such/folder", "no-such-org/no-such-tokenizer"])
def test_a_tokenizer_that_does_not_exist_names_the_llm(folder: Path, tokenizer: str) -> None:
    with pytest.raises(ValueError, match=f"^LLM 'mine': its tokenizer cannot be read from {tokenizer} .OSError: "):
        localize("mine", LLMSpec(path=str(folder), tokenizer=tokenizer)).surface()


def test_our_own_refusals_are_not_taken_for_files_that_cannot_be_read(folder: Path) -> None:
    """A configuration without a context length, a tokenizer that has neither BOS nor EOS."""
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match=r"^the configuration of LLM 'mine' does not say how many tokens it can hold"):
        localize("mine", LLMSpec(path=str(folder))).context_length()
    shutil.rmtree(folder)
    tokenizer = llama()
    tokenizer.bos_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"^tokenizer 'mine' has neither BOS nor EOS"):
        localize("mine", LLMSpec(path=str(folder))).surface()


# ---- causality --------------------------------------------------------------------------------------------------


def bert(folder: Path, is_decoder: bool) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=V, initializer_range=0.2, is_decoder=is_decoder, **shape)
    BertLMHeadModel(config).save_pretrained(folder)


PRECISIONS: list[dict[str, Any]] = [
    {},
    {"dtype": "bfloat16"},
    {"dtype": "float16"},
    {"quantization": "8bit"},
    {"quantization": "4bit"},
]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_llm_that_looks_ahead_is_refused_by_name(tmp_path: Path, precision: dict[str, Any]) -> None:
    """The same BERT is taken as a decoder."""
    bert(tmp_path / "encoder", is_decoder=False)
    llm = localize("mine", LLMSpec(path=str(tmp_path / "encoder"), **precision))
    message = (
        r"^LLM 'mine' is not causal: a token that comes later moves the logits before it, by [0-9.]+ where the largest is "
        r"[0-9.]+ \(BertLMHeadModel\)\. Give an LLM that reads from left to right, or set is_decoder in its config\.json"
    )
    for load in (llm.load, llm.load_on_device):
        with pytest.raises(ValueError, match=message):
            load()
    bert(tmp_path / "decoder", is_decoder=True)
    assert not localize("mine", LLMSpec(path=str(tmp_path / "decoder"), **precision)).load().training


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [*ARCHITECTURES, "mamba", "rwkv", "bloom"])
def test_causal_llms_are_taken_in_every_precision(tmp_path: Path, name: str, precision: dict[str, Any]) -> None:
    """Transformers of width 32 and 64, and recurrent ones; 4-bit blocks are of 64 weights."""
    torch.manual_seed(0)
    if name == "mamba":
        llm: Any = MambaForCausalLM(MambaConfig(vocab_size=V, hidden_size=64, num_hidden_layers=2, state_size=8))
    elif name == "rwkv":
        llm = RwkvForCausalLM(RwkvConfig(vocab_size=V, hidden_size=64, attention_hidden_size=64, num_hidden_layers=2))
    elif name == "bloom":
        llm = BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=64, n_layer=2, n_head=4))
    elif precision.get("quantization") == "4bit":
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        llm = LlamaForCausalLM(LlamaConfig(vocab_size=V, **shape))
    else:
        llm = tiny_llm(name, V)
    require_causal(llm.eval(), name)
    llm.save_pretrained(tmp_path)
    if name in ARCHITECTURES:
        localize("mine", LLMSpec(path=str(tmp_path), **precision)).load()


def test_logits_that_are_not_finite_are_not_a_matter_of_causality() -> None:
    for broken in (float("nan"), float("inf")):
        llm = tiny_llm("llama", V)
        llm.get_input_embeddings().weight.data[:] = broken
        require_causal(llm, "mine")


def test_an_llm_that_cannot_read_at_all_is_named(tmp_path: Path) -> None:
    """An MPT whose distances end before a text of 8 tokens does."""
    tiny_llm("mpt", V, context_length=4).save_pretrained(tmp_path)
    message = (
        r"^LLM 'mine' cannot read a text of 8 tokens on cpu \(RuntimeError: .*: check its files, and whether its quanti"
    )
    with pytest.raises(ValueError, match=message):
        localize("mine", LLMSpec(path=str(tmp_path))).load()


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
