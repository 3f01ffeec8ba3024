"""Workers that are processes of this machine (--workers), with one CPU thread or one GPU each."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labreport.run.progress import Reporter
from labreport.workers.pool import WorkerDied
from labreport.workers.worker import DONE, ERROR, PROGRESS
from simclr_core.errors import UserError
from simclr_core.scale.streaming import decoders


class Processes:
    """`count` processes of this machine, each with one CPU thread or a GPU of its own; a dead one is replaced.

    Raises: UserError for more processes than GPUs.
    """

    def __init__(self, count: int, device: str, reporter: Reporter) -> None:
        self.count, self.reporter, self.stopped = count, reporter, False
        self.progress: dict[str, dict] = {}
        gpus = visible_gpus() if device == "cuda" else None
        if gpus is not None and len(gpus) < count:
            raise UserError(f"--workers {count}: each takes a GPU and there are {len(gpus)} here; give {len(gpus)}")
        places = [{"CUDA_VISIBLE_DEVICES": gpus[k]} if gpus else {"OMP_NUM_THREADS": "1"} for k in range(count)]
        shared = {"SIMCLR_DECODERS": os.environ.get("SIMCLR_DECODERS") or str(max(1, decoders() // count))}
        self.processes = [_Process(place | shared) for place in places]
        self.idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self.processes:
            self.idle.put(process)
        self.threads = ThreadPoolExecutor(count)

    def slots(self) -> int:
        return self.count

    def submit(self, item: Mapping[str, Any]) -> Future:
        return self.threads.submit(self._compute, item)

    def _compute(self, item: Mapping[str, Any]) -> str:
        process = self.idle.get()
        try:
            return process.compute(item, self._hear)
        finally:
            self.idle.put(process)

    def _hear(self, run: str, line: str) -> None:
        if line.startswith(PROGRESS):
            with suppress(ValueError):  # a library's words on stderr may have come between
                self.progress[run] = json.loads(line.removeprefix(PROGRESS))
        elif not self.stopped:
            self.reporter.say("  " + line)

    def stop(self) -> None:
        self.stopped = True
        self.threads.shutdown(wait=False, cancel_futures=True)
        for process in self.processes:
            process.end()
        self.threads.shutdown()  # no thread reads from a process any more
        for process in self.processes:
            process.close()


@dataclass
class _Process:
    """A worker process, started when there is something to compute; `place`: its CPU thread or GPU."""

    place: dict[str, str]
    process: subprocess.Popen | None = None
    ended: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)  # none is started after the end

    def compute(self, item: Mapping[str, Any], hear: Callable[[str, str], None]) -> str:
        """The worker's answer; every other line of its is heard. Raises: WorkerDied."""
        process, error = self._started(), ""
        with suppress(BrokenPipeError):  # it died: its status tells
            process.stdin.write(json.dumps(item) + "\n")
            process.stdin.flush()
        for line in map(str.rstrip, process.stdout):
            if line.startswith(DONE.rstrip()):
                return line.removeprefix(DONE.rstrip()).strip()
            if line.startswith(ERROR):
                error = line.removeprefix(ERROR)
            else:
                hear(item["run"], line)
        status = process.wait()
        self.close()
        raise WorkerDied(error or (f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"))

    def _started(self) -> subprocess.Popen:
        with self.lock:
            if self.ended:
                raise WorkerDied("stopped")
            if not self.process:
                command = [sys.executable, "-u", "-W", "ignore", "-m", "labreport.workers.worker"]
                # a session of its own: Ctrl-C is for this process, which then ends the workers
                self.process = subprocess.Popen(
                    command, env={**os.environ, **worker_environment(), **self.place}, stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
                )  # fmt: skip
            return self.process

    def end(self) -> None:
        with self.lock:
            self.ended = True
            if self.process:
                self.process.kill()

    def close(self) -> None:
        """After its end."""
        if self.process:
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with suppress(BrokenPipeError):  # what it did not read
                    pipe.close()
            self.process = None


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them, which may allow only some."""
    import torch

    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return (allowed.split(",") if allowed else [str(k) for k in range(count)])[:count]


def worker_environment() -> dict[str, str]:
    """What workers need beside their own environment: this checkout's packages, its data."""
    import simclr_core

    packages = [str(Path(simclr_core.__file__).parents[1]), str(Path(__file__).resolve().parents[2])]
    given = {name: os.environ[name] for name in ("SIMCLR_DATA", "SIMCLR_CACHE") if name in os.environ}
    path = os.pathsep.join([*packages, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**given, "PYTHONPATH": path}
