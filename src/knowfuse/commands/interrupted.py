"""How does a command end at Ctrl-C? By one line that says how to go on, and the exit status that a shell gives it."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from knowfuse.importing import INTERRUPTED
from knowfuse.screen import is_first_rank


@contextmanager
def ending_at_ctrl_c(config_name: str, words: Sequence[str]) -> Iterator[None]:
    """SystemExit where the block is interrupted; Lightning, which answers with status 1, has made one of it already."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as end:
        of_lightning = isinstance(end, SystemExit) and isinstance(end.__context__, KeyboardInterrupt)
        if "HYDRA_FULL_ERROR" in os.environ or not (of_lightning or isinstance(end, KeyboardInterrupt)):
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends anyway, and a second one would show a stack
        if is_first_rank():
            print(f"interrupted: {_how_to_go_on(config_name, words)}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _how_to_go_on(config_name: str, words: Sequence[str]) -> str:
    if config_name == "probe":
        return "the fits of a probe are not kept, and the same command begins anew; what was read and made for it is in the cache"
    is_a_sweep, says_so = bool({"-m", "--multirun"} & set(words)), any(word.startswith("ckpt_path=") for word in words)
    more = " with ckpt_path=last" if config_name == "train" and not is_a_sweep and not says_so else ""
    return f"what is done is kept, and the same command{more} does the rest"
