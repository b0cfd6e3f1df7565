"""Stands where Python would be started: asks `command_server.py`, which forks, and ends as the command does.

`commands_for_tests.py` puts it as `python` into the server's folder, to be found by `PATH` and by `sys.executable`. It imports
next to nothing, since it is what is waited for.
"""

import json
import os
import signal
import socket
import sys

NAMED_BY_PID = ["-m", "submitit.local._local"]  # writes files that are named by the process who was started
HERE = os.path.dirname(os.path.abspath(sys.argv[0]))


def main() -> None:
    arguments = sys.argv[1:]
    while arguments and (arguments[0] == "-u" or arguments[0][:2] == "-X" != arguments[0]):  # how Python runs, not what
        arguments = arguments[1:]
    is_other = not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-m", "-c"))
    if is_other or arguments[:2] == NAMED_BY_PID:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(f"{HERE}/socket")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: connection.send(str(int(number)).encode()))
    asked = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
        "executable": f"{HERE}/python",
    }
    socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
    status = int(connection.recv(16) or 1)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


main()
