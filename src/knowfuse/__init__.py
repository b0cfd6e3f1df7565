"""knowfuse: fuse several LLMs with different tokenizers into one (knowledge fusion, arXiv 2401.10491)."""

import os
import sys

from knowfuse.importing import say_interrupted
from knowfuse.launched import require_numbers

# OpenMP's threads spin for long while they wait. Where anything else wants a core (a data worker, another run), one step
# of the quickstart took 1,395 ms so, 106 with 3,000 spins and 85 with 500; on idle cores 72, and 64 with 3,000. Read once,
# when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if sys.excepthook is sys.__excepthook__:
    sys.excepthook = say_interrupted

require_numbers(os.environ)
