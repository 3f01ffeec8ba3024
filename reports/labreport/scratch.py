"""Scratch folders in the folder for temporary files; those of processes that were killed go with the next one.

They do not lie in the report's folder, because the kernels' sockets are in them and a socket's path must be short.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "labrep-"  # short, for the same reason
SETTLED_SECONDS = 2.0  # a younger folder may belong to a process that is about to lock it


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder, locked by this process for as long as the block takes, and removed afterwards."""
    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with FileLock(folder / ".lock"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the scratch folders here whose lock nobody holds: the operating system frees a dead process's lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime > SETTLED_SECONDS:
                with FileLock(folder / ".lock", timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            pass  # at work, somebody else's, or gone meanwhile
