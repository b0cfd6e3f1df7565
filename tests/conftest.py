"""What every test shares: few threads, no hub, no cache of the user's, one prepared miniature of the quickstart.

`python -m pytest` gives files of tests to one worker process more than there are cores, the longest files first; one file
named on the command line runs in the process itself, and so does everything with `-n 0`. Tests marked `long` are left out;
`python -m pytest -m long` runs them, `-m ""` all. What a test needs to know:

- A file stays on one worker, so its module fixtures are made once; other files run at the same time.
- Nothing is written outside `tmp_path`, `tmp_path_factory` and `tiny_cache`, and no port is fixed: a command that starts
  processes of its own gets one in `MASTER_PORT`, others are `commands_for_tests.free_port()`.
- Commands of the user's run by `commands_for_tests.run_python` in a process of their own, forked from one in which torch,
  Lightning, transformers and knowfuse are imported; ranks by `run_ranks`; what they start by `sys.executable`, and what a shell finds
  behind `stand_in()` in its `PATH`, is forked too. `start_python` really starts Python, which takes 7 s: once for each
  command of the user's is enough.
- The workers share what is costly to make, under a lock: see `made_once`.

What a test may cost: those that are not `long` have 6 minutes on two cores, 720 seconds of CPU for more than 3,900. So a test
takes some hundredths of a second, one of a whole command 2 s (`run_python train.py` with `TINY_TRAINING`), and a file of fits,
ranks or servers that takes more than 10 s says in its docstring what for. Before more is spent: a fit or a command that is there
already and whose output can be read by one more test; a smaller model, text or number of steps, where their size is not what
is tested. `python -m pytest --durations=40` says where it goes. `long` is what starts, kills and starts again real programs, and
further cases of what a quick test shows already: nothing that the project promises has a long test alone, where a quick one can be.
"""

import gc
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TIKTOKEN_CACHE_DIR", "")  # it would keep a copy by path, whatever the file there becomes
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; the other cores have workers of their own
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # all processes of the tests import the same files

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from checked_for_tests import check_shapes_where_they_are
from filelock import FileLock
from xdist.scheduler import LoadFileScheduling

sys.dont_write_bytecode = False
check_shapes_where_they_are()
hypothesis.settings.register_profile("no clock", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("no clock")

MOST_WORKERS = 4  # each holds 1 GB
# The files that take longest, 7 s and more, in this order, after six whose tests are nearly all long; the others come last.
LONGEST = [
    "traces/test_vllm",
    "test_readme",
    "test_studies",
    "test_notebooks",
    "test_sweep",
    "test_multirun",
    "surface/test_real_tokenizers",
    "test_main_job",
    "plan/test_memory",
    "training/test_fit",
    "test_conf",
    "llms/test_finetune",
    "runs/test_experiment",
    "training/test_module",
    "runs/test_prepared",
    "test_benchmarks",
    "llms/test_architectures",
    "evaluation/test_tasks",
    "plan/test_plan",
    "losses/test_linear",
    "test_merge",
    "test_rounds",
    "traces/test_asking",
    "test_export",
    "alignment/test_byte_exact",
    "llms/test_dispatched",
    "llms/test_sharding",
    "llms/test_optimizers",
    "test_probe",
    "plan/test_advice",
    "test_commands",
    "training/test_data",
    "losses/test_sparse_kl",
    "alignment/test_drawn",
    "commands/test_agent_words",
    "traces/test_served",
    "llms/test_finetune_sharded",
    "runs/test_itself",
    "align_report/test_align_report",
    "test_devices",
    "runs/test_scaled",
    "test_launcher",
]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Of `-n logical`: none for one file of tests, which would not be shared anyway.

    One more than there are cores: of two each waits a fifth of its time for ranks, servers and disks.
    """
    files = [argument for argument in config.args if Path(argument.partition("::")[0]).is_file()]
    is_one_file = len(config.args) == len(files) == 1
    return 0 if is_one_file else min(len(os.sched_getaffinity(0)) + 1, MOST_WORKERS)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Each file on one worker; those that read the same real tokenizers, which take seconds to make, on the same."""

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/surface/test_real_tokenizers.py" if "/test_real_" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker is left alone with one at the end."""
    order = {Path(__file__).parent / f"{name}.py": n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish() -> None:
    """Modules and tests stay: no collection of garbage need look at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of this run of the tests that all workers see."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def tiny_cache(shared: Path) -> Path:
    """The cache after the real `python -m knowfuse.prepare` with the overrides `TINY`."""
    from commands_for_tests import run_python
    from experiments_for_tests import TINY

    return made_once(shared / "tiny_cache", lambda folder: run_python("-m", "knowfuse.prepare", *TINY, cache=folder))


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """This folder as `make` leaves it: by the first worker that comes, while the others wait."""
    with FileLock(f"{folder}.lock"):
        if not (done := Path(f"{folder}.done")).exists():
            make(folder)
            done.touch()
    return folder
