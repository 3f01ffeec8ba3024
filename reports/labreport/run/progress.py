"""What a person sees while notebooks run: which notebook, which run of how many, which epoch, time to go."""

import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from labreport.run.execution import Execution
from labreport.text import in_words

LINE_SECONDS = 15.0  # between lines where the output is not a terminal


@dataclass
class Watched:
    """One notebook being executed; `events` is the file that its kernel appends progress events to."""

    name: str
    execution: Execution
    events: Path
    runs_to_train: int  # 0: not known
    offset: int = 0
    runs: list[str] = field(default_factory=list)  # seen so far, in order
    last: dict = field(default_factory=dict)

    def read_events(self) -> None:
        """Take in the complete lines appended since the last time; anything else than an event is passed over."""
        if not self.events.is_file():
            return
        with open(self.events, "rb") as file:
            file.seek(self.offset)
            complete, newline, _ = file.read().rpartition(b"\n")
        self.offset += len(complete) + len(newline)
        for line in complete.splitlines():
            try:
                self.last = {key: json.loads(line)[key] for key in ("run", "epoch", "epochs", "loss", "seconds_left")}
            except (ValueError, KeyError, TypeError):
                continue
            if self.last["run"] not in self.runs:
                self.runs.append(self.last["run"])

    def describe(self) -> str:
        parts = [f"{self.name}: cell {self.execution.cell} of {self.execution.cells}"]
        if self.last and self.last["epoch"] < self.last["epochs"]:
            total = f" of {max(self.runs_to_train, len(self.runs))}" if self.runs_to_train else ""
            parts += [
                f"run {len(self.runs)}{total}, {self.last['run']}",
                f"epoch {self.last['epoch']} of {self.last['epochs']}",
                f"loss {self.last['loss']:.3f}",
                f"{in_words(self.last['seconds_left'])} to go",
            ]
        return ", ".join(parts)


class Reporter:
    """One live line on a terminal, else a line for each notebook every LINE_SECONDS."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.next_line = time.monotonic() + LINE_SECONDS

    def say(self, line: str) -> None:
        """A line that stays."""
        self.stream.write(f"\r\x1b[K{line}\n" if self.live else f"{line}\n")
        self.stream.flush()

    def update(self, watched: list[Watched]) -> None:
        for each in watched:
            each.read_events()
        if self.live:
            line = " | ".join(each.describe() for each in watched)
            self.stream.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
            self.stream.flush()
        elif time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_SECONDS
            for each in watched:
                self.say("  " + each.describe())
