"""Scratch folders: gone at the end, gone after a kill with the next one, and never taken from a living process."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from labreport import scratch
from labreport.scratch import PREFIX, remove_abandoned, scratch_folder
from simclr_core.errors import UserError

HOLD = """
import sys, time
from labreport.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "notes").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def tmp_path():
    """A short one."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder).resolve()


@pytest.fixture(autouse=True)
def _temporary_files_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_a_scratch_folder_is_empty_and_goes_with_its_block_whatever_happens(tmp_path):
    with pytest.raises(RuntimeError), scratch_folder() as folder:
        assert folder.parent == tmp_path and [path.name for path in folder.iterdir()] == [".lock"]
        (folder / "deep").mkdir()
        (folder / "deep/file").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_killed_process_s_folder_goes_with_the_next_one_and_a_living_one_s_stays(tmp_path, monkeypatch):
    holders = [subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        dead, living = (holder.stdout.readline().strip() for holder in holders)
        monkeypatch.setattr(scratch, "SETTLED_SECONDS", -1.0)
        with scratch_folder():
            assert os.path.isdir(dead) and os.path.isdir(living)
        os.kill(holders[0].pid, signal.SIGKILL)
        holders[0].wait()
        with scratch_folder():
            assert not os.path.exists(dead)
            assert os.path.isfile(f"{living}/notes")
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()


def test_a_folder_for_temporary_files_too_deep_for_sockets_is_left_for_a_short_one_or_named(tmp_path, monkeypatch):
    """Bound for real: at the limit a kernel's longest socket path works."""
    room = scratch.LONGEST_SOCKET - scratch.SOCKET_ROOM - len(os.fsencode(tmp_path)) - 1
    fits, too_long = tmp_path / ("x" * room), tmp_path / ("x" * (room + 1))
    short = tmp_path / "s"
    for folder in (fits, too_long, short):
        folder.mkdir()
    monkeypatch.setattr(scratch, "SHORT_FOLDERS", (str(tmp_path / "absent"), str(short)))
    for given, taken in ((fits, fits), (too_long, short)):
        monkeypatch.setattr(tempfile, "tempdir", str(given))
        with scratch_folder() as folder, socket.socket(socket.AF_UNIX) as bound:
            assert folder.parent == taken
            bound.bind(str(folder / "12345678-ipc-12"))
    monkeypatch.setattr(scratch, "SHORT_FOLDERS", (str(too_long),))
    with pytest.raises(UserError, match="xx, has a path too long for the kernels' sockets: set TMPDIR to one"):
        scratch_folder().__enter__()


def test_what_is_young_or_not_ours_is_left_alone(tmp_path):
    (tmp_path / f"{PREFIX}young").mkdir()
    (tmp_path / f"{PREFIX}old").mkdir()
    (tmp_path / "labreport-of-somebody").mkdir()
    hour_ago = time.time() - 3_600
    for name in (f"{PREFIX}old", "labreport-of-somebody"):
        os.utime(tmp_path / name, (hour_ago, hour_ago))
    remove_abandoned()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{PREFIX}young", "labreport-of-somebody"]
