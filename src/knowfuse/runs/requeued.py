"""How does a SLURM job whose time is nearly over go on? It is queued again, and goes on from its last validation."""

import os
import signal
import subprocess
from collections.abc import Mapping

from knowfuse.screen import is_first_rank, say

ASKS = signal.SIGUSR1  # as of `#SBATCH --signal=USR1@300`


def slurm_job(environment: Mapping[str, str]) -> str | None:
    """The number of the job that this process is of, or of the array and of its task."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID")


def requeue_when_told(environment: Mapping[str, str]) -> None:
    """In a SLURM job, SIGUSR1 has its first process queue it again, whether it reads, trains or scores then; elsewhere nothing.

    Lightning, which leaves the signal to a handler that is there, would do so in training alone, and first save a checkpoint
    in the middle of a step, which on several ranks need not be the same one.
    """
    if (job := slurm_job(environment)) is None:
        return
    mine = os.getpid()  # workers inherit the handler

    def requeue(*_: object) -> None:
        if os.getpid() != mine or not is_first_rank():
            return
        command = ["scontrol", "requeue", job]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"warning: {' '.join(command)} failed ({error}): queue job {job} again yourself")
        else:
            say(f"job {job} is queued again; with ckpt_path=auto it goes on from the last validation")

    signal.signal(ASKS, requeue)
