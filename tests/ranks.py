"""Several processes joined as torchrun joins them, started fast: forked from a server that has everything imported."""

import io
import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

SECONDS = 60.0  # patience with a process


@dataclass(frozen=True)
class Ended:
    status: int  # negative: a signal
    said: str  # both streams
    result: Any  # what the function returned; None if it did not


def on_processes(count: int, function: Callable, *arguments) -> list[Ended]:
    """function(*arguments) on each of `count` processes, in the order of their ranks.

    The function is one of a module's and returns what torch.save takes; an int that it returns is its exit status.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", "sklearn.datasets", "labreport.store.command"])
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        started = [context.Process(target=_run, args=(rank, count, port, folder, function, arguments))
                   for rank in range(count)]  # fmt: skip
        for process in started:
            process.start()
        for process in started:
            process.join(SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        return [_ended(process, Path(folder), rank) for rank, process in enumerate(started)]


def results(count: int, function: Callable, *arguments) -> list[Any]:
    """What the function returned, by rank; nothing may go wrong."""
    ended = on_processes(count, function, *arguments)
    assert [end.status for end in ended] == [0] * count, [end.said for end in ended]
    return [end.result for end in ended]


def _ended(process, folder: Path, rank: int) -> Ended:
    content = folder / f"{rank}.pt"
    result = torch.load(content) if content.is_file() else None
    return Ended(process.exitcode, (folder / f"{rank}.txt").read_text(), result)


def _run(rank: int, count: int, port: int, folder: str, function: Callable, arguments: tuple) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    if count == 1:
        del os.environ["RANK"], os.environ["WORLD_SIZE"]
    with open(Path(folder, f"{rank}.txt"), "w") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    result = function(*arguments)
    content = io.BytesIO()
    torch.save(result, content)
    Path(folder, f"{rank}.pt").write_bytes(content.getvalue())
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    raise SystemExit(result if isinstance(result, int) else 0)
