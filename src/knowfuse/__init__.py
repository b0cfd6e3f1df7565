"""knowfuse: fuse several LLMs with different tokenizers into one (knowledge fusion, arXiv 2401.10491)."""

import os

# OpenMP's threads spin for long while they wait. Where anything else wants a core (a data worker, another run) that
# costs ten times the work: 1,395 ms against 85 ms for one step of the quickstart, and 72 against 64 on idle cores. Read
# once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
