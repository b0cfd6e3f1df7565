"""The commands that other tests run in forked processes end as they would where Python is started."""

import signal
import subprocess
from pathlib import Path

import pytest
from commands_for_tests import ended, ended_ranks, stand_in, started

PROGRAMS = {
    "print('said'); import sys; print('wrong', file=sys.stderr)": 0,
    "raise SystemExit": 0,
    "raise SystemExit(3)": 3,
    "raise SystemExit('why')": 1,
    "1 / 0": 1,
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
    "import os, sys; print(os.getcwd(), sys.argv, sys.path[0], __name__, os.environ['KNOWFUSE_CACHE'])": 0,
    "import atexit; atexit.register(print, 'last')": 0,
    "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()": 0,
    "import subprocess; subprocess.Popen(['sh', '-c', 'sleep 0.2; echo child'])": 0,
    "import subprocess, sys; print(subprocess.call([sys.executable, '-uc', 'print(1 + 1)']))": 0,
}


def test_a_command_ends_as_when_python_is_started(tmp_path: Path) -> None:
    """Status, both streams (of an error its last line), folder, arguments, environment, threads, children, last calls."""
    for program, status in PROGRAMS.items():
        done = ended("-c", program, "argument", cache=tmp_path, cwd=tmp_path)
        want = started("-c", program, "argument", cache=tmp_path, cwd=tmp_path)
        assert done.returncode == want.returncode == status, program
        assert done.stdout == want.stdout, program
        assert done.stderr.splitlines()[-1:] == want.stderr.splitlines()[-1:], program


def test_what_a_command_starts_by_its_executable_is_forked_too(tmp_path: Path) -> None:
    """With the streams, folder, environment and status that it would have; a signal reaches it."""
    program = "import os, sys; print(sys.stdin.read(), os.getcwd(), os.environ['MINE'], flush=True); sys.exit(5)"
    nested = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-u', '-c', {program!r}]))"
    command = [stand_in(), "-c", nested]
    done = subprocess.run(command, input="asked", cwd=tmp_path, env={"MINE": "yes"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (5, f"asked {tmp_path} yes\n", "")
    sleeper = "import signal, time; signal.signal(15, lambda *_: 1 / 0); print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([stand_in(), "-c", sleeper], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(30) == 1
    with subprocess.Popen([stand_in(), "-c", "import os; os.abort()"], stderr=subprocess.DEVNULL) as process:
        assert process.wait(30) == -signal.SIGABRT


def test_modules_and_files_find_what_lies_beside_them(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("HERE = 'here'")
    (tmp_path / "program.py").write_text("import sys, beside; print(beside.HERE, __name__, sys.argv)")
    for arguments in (["-m", "program", "x"], [str(tmp_path / "program.py"), "x"], ["program.py", "x"]):
        want = started(*arguments, cache=tmp_path, cwd=tmp_path)
        assert ended(*arguments, cache=tmp_path, cwd=tmp_path) == want
        assert want.stdout.startswith("here __main__")


def test_commands_share_nothing(tmp_path: Path) -> None:
    """Neither what one set nor what chance drew."""
    program = "import os, random, numpy; print(random.random(), numpy.random.rand(), os.environ.pop('HOME', 'gone'))"
    said = [ended("-c", program, cache=tmp_path).well().split() for _ in range(2)]
    assert all(one != other for one, other in zip(said[0][:2], said[1][:2], strict=True))
    assert said[0][2] == said[1][2] != "gone"


def test_a_rank_that_fails_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands_for_tests.LEFT_S", 0.5)
    program = "import os, time; os.environ['RANK'] == '1' and 1 / 0; time.sleep(60)"
    assert [done.returncode for done in ended_ranks("-c", program, cache=tmp_path)] == [-signal.SIGKILL, 1]


def test_what_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is a child that goes on."""
    monkeypatch.setattr("commands_for_tests.TIMEOUT", 0.5)
    program = "import subprocess; subprocess.Popen(['sleep', '60']); print('started', flush=True)"
    with pytest.raises(AssertionError, match=r"(?s)ran for more than 0\.5 s.*started"):
        ended("-c", program, cache=tmp_path)
