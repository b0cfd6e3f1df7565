"""By which kernel does an LLM attend, and can it do so here?

What an LLM says does not depend on the kernel but for the rounding of sums, as it does on the device; so a kernel is in no
key of a cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import get_args

import torch
from transformers import PreTrainedModel

from knowfuse.llm_spec import Attention
from knowfuse.llms.dispatched import input_device
from knowfuse.types import LLMSpec

FLASH = {  # the package that has each, how it is installed, and the generation of GPUs that it is for
    "flash_attention_2": ("flash_attn", "pip install flash-attn --no-build-isolation", 8),  # Ampere
    "flash_attention_3": ("flash_attn_interface", "build it from the folder hopper/ of flash-attention", 9),  # Hopper
}
FLEX = "flex_attention"
ELSEWHERE = "elsewhere"
OTHERWISE = "set attention: sdpa, or leave it out"


def require_attention(
    name: str, spec: LLMSpec, *, is_trained: bool = False, device: str | None = None, gathered: str | None = None
) -> None:
    """ValueError where this machine, or the dtype, rules out the kernel that a spec asks for; it says all that does.

    `device` is the type of the one that it is to run on, None: the best of this machine, ELSEWHERE: of another machine;
    `gathered` is the dtype in which shards are gathered, where there are any. Nothing is loaded.
    """
    asked, device = spec.attention, device or _best_device()
    if asked is None:
        return
    wrong: list[str] = []
    if asked in FLASH:
        package, install, generation = FLASH[asked]
        if device != ELSEWHERE and find_spec(package) is None:
            wrong.append(f"the package {package} is not installed ({install})")
        if device == "cpu":
            wrong.append("it runs on GPUs alone, and this LLM is to run on the CPU")
        elif device != ELSEWHERE and torch.cuda.get_device_capability()[0] < generation:
            wrong.append(f"it is for GPUs of compute capability {generation}.0 and later, not {_gpu()}")
        if "float32" in (spec.dtype, gathered):
            wrong.append(
                "it computes in bfloat16 and float16 alone, not in float32 (set dtype: bfloat16; of a target so, trainer=fsdp "
                "with trainer.strategy.compute_dtype=bfloat16 trains float32 shards)"
            )
    if asked == FLEX and is_trained and device == "cpu":
        wrong.append("on the CPU it has no backward pass, and this LLM is to be trained there")
    if wrong:
        raise ValueError(f"LLM {name!r} cannot attend by {asked}: {'; '.join(wrong)}: {OTHERWISE}")


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _gpu() -> str:
    return f"{torch.cuda.get_device_name()} ({'.'.join(map(str, torch.cuda.get_device_capability()))})"


def kernels_of(architecture: type[PreTrainedModel]) -> list[Attention]:
    """Those by which transformers lets an architecture attend, as its class says."""
    if architecture._supports_sdpa and not architecture._can_set_attn_implementation():
        # A class for each: another cannot be put in for a check where the model is not yet on its GPU.
        return ["eager", "sdpa"]
    flash = getattr(architecture, "_compatible_flash_implementations", None)
    has: dict[str, bool] = {
        "sdpa": architecture._supports_sdpa,
        FLEX: architecture._supports_flex_attn,
        **{kernel: architecture._supports_flash_attn and (flash is None or kernel in flash) for kernel in FLASH},
    }
    return [kernel for kernel in get_args(Attention) if has.get(kernel, True)]


def require_kernel(name: str, asked: Attention | None, architecture: type[PreTrainedModel] | None) -> None:
    """ValueError where an architecture does not attend by the kernel that is asked for; None: its class is not known yet."""
    if asked is None or architecture is None or asked in (has := kernels_of(architecture)):
        return
    raise ValueError(
        f"LLM {name!r} cannot attend by {asked}: {architecture.__name__} of transformers attends by {', '.join(has)} alone: set "
        "attention: to one of them, or leave it out"
    )


def require_attending(model: PreTrainedModel, name: str, asked: Attention | None) -> None:
    """ValueError where transformers loaded a model with another kernel than the one that was asked for."""
    found = model.config.get_text_config()._attn_implementation
    if asked is not None and found != asked:
        raise ValueError(
            f"LLM {name!r} was asked to attend by {asked}, and transformers made {type(model).__name__} attend by {found}: set "
            f"attention: to what it has, or leave it out"
        )


@contextmanager
def reading_anywhere(model: PreTrainedModel) -> Iterator[None]:
    """Inside, a model that is not yet on its GPU reads too, for checks whose answer does not depend on the kernel."""
    chosen = model.config.get_text_config()._attn_implementation
    if input_device(model).type != "cpu" or chosen not in FLASH:
        yield
        return
    model.set_attn_implementation("sdpa" if type(model)._supports_sdpa else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(chosen)
