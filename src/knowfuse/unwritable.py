"""Why can nothing be written at a place?"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# For the user to make room, or to give another place.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_ROOM = FULL | {errno.EROFS}
NO_PLACE = NO_ROOM | {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO}
NO_PLACE |= {
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}  # where a folder is to be: a file, a link to itself, no name


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """OSError that names the path, where the block fails since nothing can be written there, or in what is unfinished beside it."""
    try:
        yield
    except Exception as error:
        found = no_place(error)
        if found is None or not (found.filename is None or str(found.filename).startswith(f"{path}.")):
            raise
        assert found.errno is not None, "it is one of NO_PLACE"
        raise OSError(found.errno, os.strerror(found.errno), str(path)) from error


@contextmanager
def making() -> Iterator[None]:
    """PermissionError where the block can make nothing in a folder that is there: of /proc the system says that it is not."""
    try:
        yield
    except FileNotFoundError as error:
        if error.filename is None or not Path(error.filename).parent.is_dir():
            raise
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), error.filename) from error


def make_folder(folder: Path) -> None:
    """The folder and those above it, where they are not there."""
    with making():
        folder.mkdir(parents=True, exist_ok=True)


def as_os_error(error: BaseException) -> OSError | None:
    """The error as that of the system which it is of; libraries in Rust, which write weights and tokenizers, say so in their text alone."""
    if isinstance(error, OSError):
        return error
    said = re.search(r"\(os error (\d+)\)", str(error))
    return None if said is None else OSError(int(said[1]), os.strerror(int(said[1])))


def why(error: BaseException) -> str:
    """Why the system could not write or read, without the place; of another error what it says first."""
    if isinstance(error, FileExistsError):
        return "A file, or a link to nothing, has this name"
    told = error.strerror if isinstance(error, OSError) else None
    return told or next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def is_full(error: OSError) -> bool:
    """Whether a place was found to be full, where making room helps."""
    return error.errno in FULL


def no_place(error: BaseException) -> OSError | None:
    """What the system said, where the error is that something cannot be written, or comes of a place without room."""
    found = as_os_error(error)
    if found is not None and found.errno in NO_PLACE:
        return found
    cause = error.__cause__ or error.__context__
    while cause is not None:
        if (found := as_os_error(cause)) is not None and found.errno in NO_ROOM:
            return found
        cause = cause.__cause__ or cause.__context__
    return None
