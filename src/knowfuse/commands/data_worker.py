"""What does a user read where a process that aligns beside the training (`num_workers`) fails, or is killed?"""

import re
from pathlib import Path

import knowfuse

FAILED = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n")
FRAME = re.compile(r'^  File "(.+)", line \d+, in .*$', re.MULTILINE)
GONE = "DataLoader worker (pid"
PACKAGE = Path(knowfuse.__file__).parent


def refusal_of_a_worker(error: Exception) -> str | None:
    """The sentence that is for the user, where the error is such a process's: torch hands it over as text, under its stack.

    None for a fault of the program, and for what another process has raised.
    """
    if isinstance(error, RuntimeError) and str(error).startswith(GONE):
        return (
            f"a process that aligns beside the training is gone ({str(error).strip(' .')}): mostly the system ends one where memory "
            "runs out. Set num_workers lower (0 aligns in the fit itself), or prefetch_batches, and run the same command again with "
            "ckpt_path=last"
        )
    if not isinstance(error, ValueError | OSError) or FAILED.match(str(error)) is None:
        return None
    *_, innermost = FRAME.finditer(str(error))
    said = re.search(
        rf"^(?:\w+\.)*{type(error).__name__}: (.*)", str(error)[innermost.end() :], re.DOTALL | re.MULTILINE
    )
    is_ours = Path(innermost[1]).is_relative_to(PACKAGE)
    return said[1].rstrip("\n") if said and is_ours else None
