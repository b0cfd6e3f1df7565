"""Does the environment say, as a launcher does, which of how many processes this is?"""

from collections.abc import Mapping

# By which torchrun, Lightning, SLURM and LSF count, and which Lightning reads as whole numbers.
NUMBERS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
NUMBERS += tuple(f"SLURM_{name}" for name in ("PROCID", "LOCALID", "NODEID", "NTASKS", "NTASKS_PER_NODE", "NNODES"))
NUMBERS += ("SLURM_STEP_NUM_TASKS", *(f"JSM_NAMESPACE_{name}" for name in ("RANK", "LOCAL_RANK", "SIZE")))
# Which process this is, in Lightning's order, and what is set beside it for one that is not the first.
BESIDE = {
    "RANK": ("LOCAL_RANK", "WORLD_SIZE"),
    "LOCAL_RANK": ("WORLD_SIZE",),
    "SLURM_PROCID": ("SLURM_LOCALID", "SLURM_NTASKS"),
}


def require_numbers(environment: Mapping[str, str]) -> None:
    """Ends the process where one of these is no number: Lightning and torchmetrics, which are imported, would show a stack."""
    for name in NUMBERS:
        if name in environment and not environment[name].isdecimal():
            raise SystemExit(
                f"the environment variable {name} is {environment[name]!r}, and launchers set it to a number: unset it, or start by "
                "torchrun or srun"
            )


def require_joined(environment: Mapping[str, str]) -> None:
    """Ends a process that is not the first, and of which nobody says of how many it is.

    It would work alone, and leave to the first what is to be said and written.
    """
    mine = next((name for name in BESIDE if name in environment), None)
    if mine is None or int(environment[mine]) == 0:
        return
    if missing := [name for name in BESIDE[mine] if name not in environment]:
        raise SystemExit(
            f"the environment variable {mine} is {environment[mine]}, and {missing[0]} is not set: this process is not the first, and of no "
            f"others, so it would write nothing: unset {mine}, or start by torchrun or srun"
        )
