"""Many pre-training runs before the notebooks, which then find them in the run store: order, progress, dead workers.

Workers are processes of this machine (labreport.workers.processes, --workers) or tasks of a Ray cluster
(labreport.workers.ray_cluster, --ray).
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from labreport.run.plan import Cost, PlannedRun
from labreport.run.progress import Reporter
from labreport.run.runner import TICK_SECONDS
from labreport.text import in_words
from labreport.workers.worker import work_item

TRIES = 3  # workers that may die on one run: the third death is no accident


class WorkerDied(Exception):
    """A worker ended without an answer; the message says how."""


class Workers(Protocol):
    """Whoever computes runs; `progress`: run -> the last event of its training, as far as it is known."""

    progress: dict[str, dict]

    def slots(self) -> int:
        """Runs at a time, now."""

    def submit(self, item: Mapping[str, Any]) -> Future:
        """Compute a labreport.workers.worker.work_item: "" or what the user can mend; an exception is a dead worker."""

    def stop(self) -> None:
        """End all workers at once; nothing of theirs runs on."""


@dataclass
class Computation:
    """Runs on their way into the store; `failed`: run -> why it is not there."""

    workers: Workers
    store: Path
    keep: Mapping[str, list[int]]
    cost: Mapping[str, Cost]
    reporter: Reporter
    items: dict[str, dict] = field(default_factory=dict)  # run -> what its worker is told
    waiting: list[PlannedRun] = field(default_factory=list)
    running: dict[Future, tuple[PlannedRun, float]] = field(default_factory=dict)  # and when it was started
    deaths: Counter = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    estimated: float = 0.0  # seconds, of the runs that are done
    needed: float = 0.0  # seconds, by them

    def run(self, runs: Iterable[PlannedRun]) -> dict[str, str]:
        """Compute what is not stored, the longest first and each once; returns `failed`. One failure stops no other.

        Raises: UserError, before any is computed, for a run that no worker can be told of.
        """
        missing = {run.name: run for run in runs if not run.stored}
        self.items = {name: work_item(run, self.keep.get(name, ()), self.store) for name, run in missing.items()}
        self.waiting = sorted(missing.values(), key=lambda run: self.cost[run.name].petaflop, reverse=True)
        try:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < max(1, self.workers.slots()):
                    self._start(self.waiting.pop(0))
                done, _ = wait(self.running, TICK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    self._conclude(future)
                self.reporter.update([self] if self.running else [])
        finally:
            self.workers.stop()
        return self.failed

    def _start(self, run: PlannedRun) -> None:
        future = self.workers.submit(self.items[run.name])
        self.running[future] = run, time.monotonic()
        self.reporter.say(f"{run.name}: started, {len(self.waiting)} waiting")

    def _conclude(self, future: Future) -> None:
        run, started = self.running.pop(future)
        self.workers.progress.pop(run.name, None)
        seconds = time.monotonic() - started
        try:
            failure = future.result() or self._missing(run)
        except Exception as error:
            self.deaths[run.name] += 1
            if self.deaths[run.name] < TRIES:
                self.waiting.insert(0, run)
                self.reporter.say(f"{run.name}: its worker died ({_in_a_line(error)}); another takes over")
                return
            failure = f"{TRIES} workers died on it, the last one: {_in_a_line(error)}"
        if failure := failure.removeprefix(f"{run.name}: "):
            self.failed[run.name] = failure
            self.reporter.say(f"{run.name}: failed: {failure}; {self._left()}")
        else:
            self.estimated += self.cost[run.name].seconds
            self.needed += seconds
            self.reporter.say(f"{run.name}: stored after {in_words(seconds)}; {self._left()}")

    def _missing(self, run: PlannedRun) -> str:
        """A worker says that it is done: the run must be in the store as it is seen from here."""
        from labreport.store.runs import find_run

        found = find_run(run.config, run.data, self.store)
        return "" if found else f"its worker is done, but it is not in {self.store}, which all machines must share"

    def _left(self) -> str:
        count, seconds = len(self.waiting) + len(self.running), self._seconds_left()
        return f"{count or 'none'} left" + (f", {in_words(seconds)} to go" if seconds else "")

    def _seconds_left(self) -> float:
        """By the estimates of --list, stretched by what finished runs needed of theirs; 0: not known."""
        pace, now = self.needed / self.estimated if self.estimated else 1.0, time.monotonic()
        left = [pace * self.cost[run.name].seconds for run in self.waiting]
        for run, started in self.running.values():
            by_estimate = max(0.0, pace * self.cost[run.name].seconds - (now - started))
            left.append(self.workers.progress.get(run.name, {}).get("seconds_left", by_estimate))
        return max([sum(left) / max(1, self.workers.slots()), *left], default=0.0)

    def read_events(self) -> None:
        """Asked by the reporter before each line; the workers' threads have read them."""

    def describe(self) -> str:
        under_way = ", ".join(self._describe(run.name) for run, _ in self.running.values())
        return f"pre-training: {self._left()}; under way: {under_way}"

    def _describe(self, name: str) -> str:
        if event := self.workers.progress.get(name):
            return f"{name} (epoch {event['epoch']} of {event['epochs']}, loss {event['loss']:.3f})"
        return name


def _in_a_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error  # Ray wraps what a task raised
    words = (str(cause).strip().splitlines() or [""])[0]
    return words if isinstance(cause, WorkerDied) else f"{type(cause).__name__}: {words}"
