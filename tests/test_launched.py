"""An environment that no launcher would make is refused by the variable, before a library reads it."""

import subprocess
import sys

import pytest
from commands_for_tests import environment_with
from experiments_for_tests import started_by_torchrun

from knowfuse.launched import BESIDE, NUMBERS, require_joined, require_numbers
from knowfuse.ranks import Ranks, ranks
from knowfuse.training.trainers import require_devices


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("number", ["x", "", "-1", "1.0"])
def test_what_is_no_number_is_named(name: str, number: str) -> None:
    with pytest.raises(SystemExit) as refused:
        require_numbers({name: number})
    assert str(refused.value) == (
        f"the environment variable {name} is {number!r}, and launchers set it to a number: unset it, or start by torchrun or srun"
    )
    require_numbers({name: "12"})


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_it_is_named_before_lightning_reads_it(name: str) -> None:
    """The first module of ours that imports Lightning; no stack."""
    done = subprocess.run(
        [sys.executable, "-c", "import knowfuse.screen"],
        env=environment_with(**{name: "x"}),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"the environment variable {name} is 'x', and launchers")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("mine", "missing"), [(name, lacks) for name, beside in BESIDE.items() for lacks in beside])
def test_a_process_that_is_not_the_first_is_of_others(mine: str, missing: str) -> None:
    whole = {mine: "1", **dict.fromkeys(BESIDE[mine], "2")}
    require_joined(whole)
    lacking = {name: value for name, value in whole.items() if name != missing}
    with pytest.raises(
        SystemExit, match=rf"variable {mine} is 1, and {missing} is not set: .* write nothing: unset {mine}"
    ):
        require_joined(lacking)
    require_joined({**lacking, mine: "0"})


def test_numbers_of_a_launcher_are_read_in_its_order() -> None:
    """Under torchrun in a job of SLURM, whose process may be another, torchrun's count."""
    require_joined({"SLURM_PROCID": "1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})
    with started_by_torchrun(1, 2):
        assert ranks() == Ranks(1, 2, 1)


SRUN = "the environment variable SLURM_NTASKS is set, as by srun, and "


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SLURM_NTASKS": "1"}, f"{SRUN}SLURM_PROCID is not: start by srun, or unset SLURM_NTASKS"),
        ({"SLURM_NTASKS": "2"}, f"{SRUN}Lightning refuses it (You set `--ntasks=2`"),
        (
            {"TORCHELASTIC_RUN_ID": "a"},
            "TORCHELASTIC_RUN_ID is set, as by torchrun, and RANK is not: start by torchrun",
        ),
    ],
)
def test_a_launcher_that_did_not_start_this_process(
    environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for the ranks, and whoever asks whether this machine has the devices of a Trainer."""
    for name in ("RANK", "SLURM_PROCID", "SLURM_NTASKS_PER_NODE", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for ask in (ranks, lambda: require_devices(lambda **_: None)):  # type: ignore[arg-type, return-value]
        with pytest.raises(ValueError, match=r"the environment variable ") as refused:
            ask()
        assert says in str(refused.value)
