"""Files written whole or not at all, read only as they were written, by one process at a time."""

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from simclr_core.errors import StoreError


def write_atomically(path: Path, *parts: bytes | str) -> None:
    """Write to a temporary name, flush to the disk, rename: readers see the old file or the new.

    Raises: StoreError if the folder cannot be written or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part.encode() if isinstance(part, str) else part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _remove_abandoned(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        advice = "free some space or give a folder that can be written"
        raise StoreError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def _remove_abandoned(folder: Path) -> None:
    """Delete the temporary files of this machine's processes that were killed while they wrote."""
    for old in folder.glob(f".*.{platform.node()}.*.tmp"):
        if Path("/proc/self").exists() and not Path("/proc", old.name.split(".")[-2]).exists():
            old.unlink(missing_ok=True)


def write_checksummed(path: Path, content: bytes) -> None:
    """The content behind its SHA-256, for formats that are read without being checked."""
    write_atomically(path, hashlib.sha256(content).digest(), content)


def read_checksummed(path: Path) -> bytes:
    """Raises: StoreError if the checksum does not fit; OSError."""
    with open(path, "rb") as file:
        expected, content = file.read(32), file.read()
    if hashlib.sha256(content).digest() != expected:
        raise StoreError(f"{path} is damaged (its checksum does not fit)")
    return content


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file or folder to <name>.damaged[-k] beside it, and say so."""
    names = (f"{path.name}.damaged{f'-{k}' if k else ''}" for k in count())
    target = next(new for name in names if not (new := path.with_name(name)).exists())
    try:
        path.rename(target)
    except FileNotFoundError:  # by another process meanwhile
        return
    except OSError as error:
        raise StoreError(f"{path} is damaged and cannot be moved: {error.strerror}") from error
    print(f"{reason}; set aside as {target.name}", file=sys.stderr)


@contextmanager
def one_at_a_time(lock: Path, busy: str, say: Callable | None = None) -> Iterator[None]:
    """Of several processes one goes on, others say `busy` and wait; a dead one's lock is free."""
    try:
        held = FileLock(lock).acquire(timeout=0)
    except Timeout:
        say(busy) if say else print(busy, file=sys.stderr, flush=True)
        held = FileLock(lock).acquire()
    with held:
        yield
