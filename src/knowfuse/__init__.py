"""knowfuse: fuse several LLMs with different tokenizers into one (knowledge fusion, arXiv 2401.10491)."""

import os

# Threads that spin while they wait cost several times the work where a data worker wants their core; torch reads this
# once, when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
