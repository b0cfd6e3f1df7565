"""The kernel that a setting names is the one that attends, alone and packed; what cannot be is refused by name."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from architectures_for_tests import PACKED
from experiments_for_tests import TINY_TRAINING, composed, local_llm
from tokenizers_for_tests import llama
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, PreTrainedModel, modeling_flash_attention_utils
from transformers.models.llama import modeling_llama

from knowfuse.llms import attention
from knowfuse.llms.checks import require_causal
from knowfuse.llms.head import output_head
from knowfuse.llms.isolation import require_read_alone
from knowfuse.llms.local import localize
from knowfuse.llms.packed import packed_logits
from knowfuse.types import LLMSpec

V = len(llama())
LENGTHS = [30, 41, 1, 9]  # beyond the windows of 8
CLOSE = 1e-5  # of the largest logit: float32 sums in another order


def model_of(architecture: str, kernel: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(PACKED[architecture](V), attn_implementation=kernel).eval()


def block() -> tuple[Tensor, Tensor, Tensor]:
    """Documents of these lengths in one row: ids, positions, numbers."""
    ids = torch.randint(0, V, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    return ids, positions, torch.repeat_interleave(torch.arange(1, 5), torch.tensor(LENGTHS))[None]


def alone(model: PreTrainedModel) -> Tensor:
    """Logits of each document by itself, one after another."""
    return torch.cat([model(input_ids=ids[None]).logits[0] for ids in block()[0][0].split(LENGTHS)])


def assert_packed_as(kernel: str, reference: str, architecture: str) -> None:
    """A packed block by one kernel against its documents alone by another."""
    model = model_of(architecture, kernel)
    with torch.no_grad():
        packed, want = packed_logits(model, *block())[0], alone(model_of(architecture, reference))
    torch.testing.assert_close(packed, want, rtol=0, atol=CLOSE * float(want.abs().max()))


# ---- the kernel that is named attends ---------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which kernel Llama's attention called, and on how many rows."""
    seen: list[tuple[str, int]] = []
    eager = modeling_llama.eager_attention_forward

    def its_own(module: Any, query: Tensor, *arguments: Any, **options: Any) -> Any:
        seen.append(("eager", query.shape[2]))
        return eager(module, query, *arguments, **options)

    def fused(query: Tensor, *arguments: Any, **options: Any) -> Tensor:
        seen.append(("sdpa", query.shape[2]))
        return scaled_dot_product_attention(query, *arguments, **options)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", its_own)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
    return seen


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_named_kernel_attends_in_packed_blocks_too(tmp_path: Path, calls: list[tuple[str, int]], kernel: Any) -> None:
    """Forward and backward, a document at a time; its traces are those of any kernel."""
    model = localize("x", LLMSpec(path=str(local_llm(tmp_path / "x").folder), attention=kernel)).load()
    calls.clear()
    packed_logits(model.train(), *block()).sum().backward()
    assert calls == [(kernel, length) for _ in range(2) for length in LENGTHS]
    assert all(p.grad is not None for p in model.parameters())
    spec = LLMSpec(path=str(tmp_path / "x"))
    assert localize("x", LLMSpec(path=spec.path, attention=kernel)).fingerprint == localize("x", spec).fingerprint


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "gpt_oss", "gpt2", "mixtral"])
def test_eager_attention_of_a_packed_block(architecture: str) -> None:
    """Against each document alone by what transformers chooses: windows, soft caps and sinks are the LLM's own."""
    model = AutoModelForCausalLM.from_config(PACKED[architecture](V))
    assert_packed_as("eager", model.config._attn_implementation, architecture)


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """Flex attention as its Python says it, which compiling for seconds does not change."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen3_moe", "llama4"])
def test_flex_attention_of_a_packed_block(architecture: str, uncompiled: None) -> None:
    """It finds the documents by itself; windows and chunks are those of each."""
    assert_packed_as("flex_attention", "sdpa", architecture)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_what_does_not_hand_on_positions_is_not_packed_by_flex_attention(uncompiled: None) -> None:
    """OPT: the check at the start of a fit finds out, and says what to set."""
    model = model_of("opt", "flex_attention")
    message = "OPTForCausalLM does not read documents packed .*: set packing=one_document, a document a row, or attention: sdpa"
    with pytest.raises(ValueError, match=message):
        require_read_alone(model, output_head(model, V), "blocks", 128, 60)


# ---- flash attention, whose package needs a GPU: what it is called with, by plain functions in its place ------------


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, window: tuple[int, int], softcap: float) -> Tensor:
    """Causal attention of one document, [T, heads, D], as flash_attn documents it; a window looks so many tokens back."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    scores = softcap * (scores / softcap).tanh() if softcap else scores
    back = torch.arange(len(query))[:, None] - torch.arange(len(query))
    is_seen = (back >= 0) & ((back <= window[0]) | (window[0] < 0))
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~is_seen, -torch.inf).softmax(-1), value)


class FlashAttn:
    """The two functions of the package that transformers calls, with their signatures."""

    def __init__(self) -> None:
        self.ends: list[list[int]] = []

    def varlen(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
        max_seqlen_k: int, dropout_p: float = 0.0, softmax_scale: float = 1.0, causal: bool = False,
        window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0,
    ) -> Tensor:  # fmt: skip
        assert causal
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        self.ends.append(cu_seqlens_q.tolist())
        rows = [slice(*place) for place in pairwise(self.ends[-1])]
        return torch.cat([_attend(q[r], k[r], v[r], softmax_scale, window_size, softcap) for r in rows])

    def whole(
        self, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float = 1.0, causal: bool = False,
        window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0,
    ) -> Tensor:  # fmt: skip
        assert causal
        return torch.stack([_attend(*row, softmax_scale, window_size, softcap) for row in zip(q, k, v, strict=True)])


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> FlashAttn:
    """transformers finds the package, and a GPU to call it on."""
    package = FlashAttn()
    known = modeling_flash_attention_utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2]
    monkeypatch.setitem(known, "general_availability_check", lambda: True)
    monkeypatch.setitem(known, "supported_devices", ((lambda: True, "cuda"),))
    functions = (package.whole, package.varlen, None, None, None)
    monkeypatch.setattr(modeling_flash_attention_utils, "_lazy_imports", lambda *_, **__: functions)
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    return package


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "gemma3", "qwen3_moe"])
def test_flash_attention_is_told_where_documents_end(architecture: str, flash: FlashAttn) -> None:
    """By its own lengths, in every layer, windows and soft caps beside them."""
    reference = "eager" if architecture == "gemma2" else "sdpa"
    assert_packed_as("flash_attention_2", reference, architecture)
    assert flash.ends == [[0, 30, 71, 72, 81]] * 4


def test_checks_on_the_cpu_read_an_llm_of_flash_attention(flash: FlashAttn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is before it is moved to its GPU; then it attends as it was told."""
    model = model_of("llama", "flash_attention_2")

    def refuse(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("FlashAttention only supports CUDA")

    monkeypatch.setattr(flash, "whole", refuse)
    monkeypatch.setattr(modeling_flash_attention_utils, "_flash_fn", refuse)
    require_causal(model, "x")
    output_head(model, V)
    with pytest.raises(RuntimeError, match="only supports CUDA"):
        model(input_ids=torch.arange(8)[None], use_cache=False)


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "package"), [("flash_attention_2", "flash_attn"), ("flash_attention_3", "flash_attn_interface")]
)
def test_flash_attention_without_its_package_its_gpu_and_its_dtype(tmp_path: Path, kernel: Any, package: str) -> None:
    """All that is wrong in one message; before a file is read."""
    message = (
        rf"^LLM 'x' cannot attend by {kernel}: the package {package} is not installed \(.+\); it runs on GPUs alone, and this "
        r"LLM is to run on the CPU; it computes in bfloat16 and float16 alone, not in float32 \(set dtype: bfloat16; .+\): set "
        r"attention: sdpa, or leave it out$"
    )
    with pytest.raises(ValueError, match=message):
        localize("x", LLMSpec(path=str(tmp_path / "nothing"), attention=kernel))


def test_flash_attention_in_what_shards_are_gathered_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 weights in float32 shards; on a GPU that has the package nothing else is wrong, and one that is too old is named."""
    monkeypatch.setattr(attention, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    spec = LLMSpec(path="x", dtype="bfloat16", attention="flash_attention_2")
    attention.require_attention("x", spec, device="cuda")
    attention.require_attention("x", spec, device="cuda", gathered="bfloat16")
    with pytest.raises(
        ValueError, match=r"flash_attention_2: it computes in bfloat16 and float16 alone, not in float32"
    ):
        attention.require_attention("x", spec, device="cuda", gathered="float32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(ValueError, match=r"compute capability 8\.0 and later, not Tesla T4 \(7\.5\): set"):
        attention.require_attention("x", spec, device="cuda")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "llama2.attention=flex_attention",
            "'target' cannot attend by flex_attention: on the CPU it has no backward pass",
        ),
        ("mpt.attention=flash_attention_2", "'mpt' cannot attend by flash_attention_2: the package flash_attn is"),
    ],
)
def test_a_run_is_refused_before_anything_is_prepared(override: str, message: str) -> None:
    """By what train.py asks of the machine, first of all."""
    experiment = hydra.utils.instantiate(composed("train", *TINY_TRAINING, f"++sources.{override}"), _convert_="all")
    with pytest.raises(ValueError, match=message):
        experiment.require_machine()


def test_an_architecture_without_the_kernel(tmp_path: Path, tiny_cache: Path) -> None:
    """When its folder is found, or before a recipe is trained: transformers says what a class has."""
    local_llm(tmp_path / "mpt", "mpt")
    message = "^LLM 'mpt' cannot attend by sdpa: MptForCausalLM of transformers attends by eager alone: set attention: to one of them"
    with pytest.raises(ValueError, match=message):
        localize("mpt", LLMSpec(path=str(tmp_path / "mpt"), attention="sdpa"))
    cfg = composed("train", *TINY_TRAINING, f"cache={tiny_cache}", "++sources.mpt.attention=sdpa")
    with pytest.raises(ValueError, match=message):
        hydra.utils.instantiate(cfg, _convert_="all").prepare()


def test_kernels_of_an_architecture() -> None:
    """By what transformers lists, not by names: gpt-oss has sinks, which flash attention 2 has not; Falcon has a class for each."""
    kernels = {
        name: attention.kernels_of(type(model_of(name, "eager"))) for name in ("llama", "gpt_oss", "falcon", "gpt2")
    }
    flash = ["flash_attention_2", "flash_attention_3"]
    assert kernels == {
        "llama": ["eager", "sdpa", *flash, "flex_attention"],
        "gpt_oss": ["eager", "flex_attention"],
        "falcon": ["eager", "sdpa"],
        "gpt2": ["eager", "sdpa", *flash],
    }


def test_another_kernel_than_the_one_that_was_asked_for() -> None:
    with pytest.raises(
        ValueError, match="'x' was asked to attend by sdpa, and transformers made LlamaForCausalLM attend by eager"
    ):
        attention.require_attending(model_of("llama", "eager"), "x", "sdpa")


def test_a_served_llm_attends_as_its_server_lets_it() -> None:
    message = "has both server and attention: what is served was loaded by the server; .* leave attention out"
    with pytest.raises(ValueError, match=message):
        LLMSpec(path="x", server="http://127.0.0.1:8000/v1", attention="sdpa")
