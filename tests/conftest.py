"""What every test shares: few threads, no hub, no cache of the user's, one prepared miniature of the quickstart."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TIKTOKEN_CACHE_DIR", "")  # it would keep a copy by path, whatever the file there becomes

from pathlib import Path

import pytest
import torch
from experiments_for_tests import TINY, run_python

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache after the real `python -m knowfuse.prepare` with the overrides `TINY`."""
    cache = tmp_path_factory.mktemp("cache")
    run_python("-m", "knowfuse.prepare", *TINY, cache=cache)
    return cache
