"""What fails in a process that aligns beside the training is told as if the fit itself had met it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from knowfuse.commands.command import refusal
from knowfuse.files import undamaged
from knowfuse.runs.where import require_name


class Failing(Dataset[int]):
    """One row, whose reading is this call."""

    def __init__(self, read: Callable[[], object]) -> None:
        self.read = read

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> int:
        self.read()
        return place


def raised_in_a_worker(read: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        list(StatefulDataLoader(Failing(read), num_workers=1))
    return caught.value


def misnamed() -> None:
    require_name("../a")


def damaged() -> None:
    """With a cause, whose own stack comes first."""
    with undamaged(Path("shard"), "remove it:\nit is read again"):
        raise EOFError("it has 3 bytes")


@pytest.mark.parametrize("read", [misnamed, damaged])
def test_what_we_raise_there_is_for_the_user(read: Callable[[], None]) -> None:
    with pytest.raises(Exception) as here:  # noqa: PT011
        read()
    told = refusal(raised_in_a_worker(read))
    assert told == refusal(here.value) == str(here.value)


def test_a_fault_of_the_program_keeps_its_stack() -> None:
    error = raised_in_a_worker(lambda: np.zeros(3).reshape(2))
    assert isinstance(error, ValueError)
    assert refusal(error) is None
    assert "test_data_worker.py" in str(error)


@pytest.mark.parametrize("end", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(1)])
def test_one_that_is_gone_is_told_with_the_remedy(end: Callable[[], None]) -> None:
    told = refusal(raised_in_a_worker(end))
    assert told is not None
    assert told.startswith("a process that aligns beside the training is gone (DataLoader worker (pid")
    assert "Set num_workers lower" in told
    assert told.endswith("ckpt_path=last")
