"""How does one process of several have a place to itself?"""

from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from knowfuse.unwritable import make_folder, making


def lock_file(path: Path) -> FileLock:
    """The lock that this file is, not yet taken, in a folder that is made for it where it is not there.

    OSError, PermissionError as `making` says it, where it cannot be made: filelock alone waits for ever for a file that the
    system does not make in a folder that is there.
    """
    make_folder(path.parent)
    with suppress(FileExistsError), making():
        path.touch(exist_ok=False)
    return FileLock(path)
