"""What is an LLM before its weights are read? Its own code, on tensors that have shapes and no data."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from knowfuse.llm_spec import Attention
from knowfuse.llms.local import architecture_of, auto_class


@contextmanager
def shapes_only() -> Iterator[None]:
    """Tensors made inside have shapes and no data; operators choose the kernels that they choose on a CPU, attention a fused one."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it says of weights that are not initialised is the point
    grouped = torch.nn.functional.grouped_mm
    torch.nn.functional.grouped_mm = lambda rows, weight, **_: _GroupedProduct.apply(rows, weight)
    try:
        with FakeTensorMode(), torch.device("cpu"):
            yield
    finally:
        torch.nn.functional.grouped_mm = grouped
        logging.set_verbosity(verbosity)


class _GroupedProduct(torch.autograd.Function):
    """The product of rows [N, H] with the experts [E, H, D] that they go to, by its shapes: each row meets one matrix.

    torch's own has no shapes in float32, and its work is not among the operators whose work torch knows.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(rows, weight)
        return rows @ weight[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight = ctx.saved_tensors
        of_rows = gradient @ weight[0].T if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_rows, None
        of_weight = torch.empty_like(weight)
        of_weight[0] = rows.T @ gradient
        return of_rows, of_weight


def build(
    config: PretrainedConfig,
    dtype: torch.dtype,
    attention: Attention | None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The model of a configuration, inside `shapes_only`.

    Flash and flex attention, which take GPUs or a compiler, are planned as sdpa where the LLM has it: none of them keeps scores.
    """
    if attention not in (None, "eager", "sdpa"):
        architecture = architecture_of(config)
        attention = "sdpa" if architecture is not None and architecture._supports_sdpa else None
    options = {"attn_implementation": attention, "trust_remote_code": trust_remote_code}
    return auto_class(config).from_config(config, dtype=dtype, **options)
