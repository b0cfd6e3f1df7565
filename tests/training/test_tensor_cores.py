"""TF32 while a fit runs on a GPU in half precision, and nowhere else."""

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy

from knowfuse.llms.sharding import FSDP2
from knowfuse.training.tensor_cores import tensor_cores


class OneGPU(SingleDeviceStrategy):
    """Whose device is said, not looked for: this machine may have none."""

    @property
    def root_device(self) -> torch.device:
        return torch.device("cuda", 0)


class ShardedOverGPUs(FSDP2):
    @property
    def root_device(self) -> torch.device:
        return torch.device("cuda", 0)


def trainer(strategy: Strategy | str, precision: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", devices=1, strategy=strategy, precision=precision, logger=False, enable_progress_bar=False
    )


@pytest.mark.parametrize(
    ("strategy", "precision", "expected"),
    [
        (OneGPU(), "bf16-mixed", "high"),
        (OneGPU(), "bf16-true", "high"),
        (OneGPU(), "32-true", "highest"),
        (ShardedOverGPUs(compute_dtype="bfloat16"), "32-true", "high"),
        (ShardedOverGPUs(compute_dtype="float32"), "32-true", "highest"),
        ("auto", "bf16-mixed", "highest"),
    ],
)
def test_products_of_float32_are_in_tf32_where_the_others_are_in_half_precision(
    strategy: Strategy | str, precision: str, expected: str
) -> None:
    with tensor_cores(trainer(strategy, precision)):
        assert torch.get_float32_matmul_precision() == expected
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_was_set_comes_back_after_a_fit_that_fails() -> None:
    with pytest.raises(KeyError), tensor_cores(trainer(OneGPU(), "bf16-mixed")):
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest"
