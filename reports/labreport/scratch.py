"""Scratch folders in the folder for temporary files; those of processes that were killed go with the next one.

They do not lie in the report's folder, because the kernels' sockets are in them and a socket's path must be short.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from simclr_core.errors import UserError

PREFIX = "labrep-"  # short, for the same reason
LONGEST_SOCKET = 103  # bytes of a socket's path: 107 on Linux, 103 on macOS; a longer one hangs or fails
SOCKET_ROOM = len(f"/{PREFIX}12345678/12345678-ipc-12")  # below the folder for temporary files
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
SETTLED_SECONDS = 2.0  # a younger folder may belong to a process that is about to lock it


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder, locked by this process for as long as the block takes, and removed afterwards."""
    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temporary_folder()))
    try:
        with FileLock(folder / ".lock"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_folder() -> Path:
    """$TMPDIR or the system's, or where its path is too long for sockets a short one. Raises: UserError."""
    given = Path(tempfile.gettempdir()).resolve()
    for folder in (given, *map(Path, SHORT_FOLDERS)):
        short = len(os.fsencode(folder)) + SOCKET_ROOM <= LONGEST_SOCKET
        if short and folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise UserError(f"the folder for temporary files, {given}, has a path too long for the kernels' sockets: "
                    f"set TMPDIR to one of at most {LONGEST_SOCKET - SOCKET_ROOM} bytes")  # fmt: skip


def remove_abandoned() -> None:
    """Remove the scratch folders here whose lock nobody holds: the operating system frees a dead process's lock."""
    for folder in temporary_folder().glob(f"{PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime > SETTLED_SECONDS:
                with FileLock(folder / ".lock", timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            pass  # at work, somebody else's, or gone meanwhile
