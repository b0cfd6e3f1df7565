"""A device that no machine has: real numbers, kept on the CPU, that refuse to meet a tensor which is not on it, as a GPU's do.

A process that has imported this knows the device for good: it is for programs of their own.
"""

from typing import Any

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class _Module(_DummyBackendModule):
    """What torch asks a device about."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


NAME = "testgpu"
_setup_privateuseone_for_python_backend(NAME, _Module())
DEVICE = torch.device(NAME, 0)
MOVES = ("aten::copy_", "aten::_to_copy")  # what takes tensors of two devices on a GPU too
INDEXES = (
    "aten::index",
    "aten::index_put_",
    "aten::index_put",
    "aten::_index_put_impl_",
)  # whose indices may be on the CPU


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device; `numbers` has its numbers."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnDevice":
        strides = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=DEVICE, **strides)  # type: ignore[attr-defined]
        made.numbers = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs)


@torch.library.impl("aten::empty_strided", "PrivateUse1")
def _empty(
    size: Any, stride: Any, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> Any:
    """What `torch.tensor([...], device=...)` is made in, which asks no mode."""
    return OnDevice(torch.empty_strided(size, stride, dtype=dtype))


@torch.library.impl("aten::_copy_from", "PrivateUse1")
def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    _numbers(target).copy_(_numbers(source))
    return target


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation on the numbers; its results are on the device if its tensors were, or it says so."""
    kwargs, name = dict(kwargs or {}), func._schema.name
    there = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, OnDevice)]
    if there:
        _require_one_device(name, args, kwargs)
    is_there = bool(there) and name != "aten::_local_scalar_dense"
    if (device := kwargs.get("device")) is not None:
        is_there, kwargs["device"] = torch.device(device).type == NAME, torch.device("cpu")
    out = func(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))

    def kept(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, OnDevice):
            return value
        same = [t for t in there if t.numbers is value]  # in place
        return same[0] if same else OnDevice(value) if is_there else value

    return tree_map(kept, out)


class Device(TorchDispatchMode):
    """Within it tensors can be made on the device; RuntimeError for an operation on tensors of two devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs)


def _numbers(value: Any) -> Any:
    return value.numbers if isinstance(value, OnDevice) else value


def _require_one_device(name: str, args: Any, kwargs: Any) -> None:
    """A number, which is a tensor without dimensions, may be on the CPU."""
    if name in MOVES:
        return
    looked_at = (args[0], *args[2:]) if name in INDEXES else args
    tensors = [t for t in tree_flatten((looked_at, kwargs))[0] if isinstance(t, torch.Tensor)]
    if name in INDEXES and not isinstance(args[0], OnDevice):
        raise RuntimeError(f"{name}: a tensor on the CPU with indices on the device")
    elsewhere = [tuple(t.shape) for t in tensors if not isinstance(t, OnDevice) and t.ndim > 0]
    if elsewhere and any(isinstance(t, OnDevice) for t in tensors):
        raise RuntimeError(f"{name}: tensors of two devices, on the CPU those of shapes {elsewhere}")


class Accelerator(CPUAccelerator):
    """What Lightning needs to know of it."""

    def setup_device(self, device: torch.device) -> None: ...
