"""One notebook executed by papermill: temporary name, rename after success, a kernel that can be stopped."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers
from traitlets.config import Config

MEMORY_ADVICE = "if memory ran out, use a smaller batch_size, micro_batch, or fewer --jobs"


@dataclass
class Execution:
    """A notebook on its way; `cell` of `cells` may be read from another thread meanwhile.

    Args:
        source: the notebook; its folder is the kernel's working folder.
        target: where the executed notebook goes; only a complete one gets this name.
        parameters: JSON types, injected after the cell tagged `parameters`.
        environment: the kernel's environment variables, all of them.
        scratch: an existing folder for the kernel's connection file and sockets, its path short enough for a socket.
    """

    source: Path
    target: Path
    parameters: Mapping[str, Any]
    environment: Mapping[str, str]
    scratch: Path
    cell: int = 0  # 1-based, now running
    cells: int = 0
    seconds: float = 0.0  # from the start of the kernel to the end
    stopped: bool = False
    client: PapermillNotebookClient | None = None
    process: subprocess.Popen | None = None  # the kernel's

    def run(self) -> str:
        """Execute; returns "" or what went wrong, in a line."""
        started = time.monotonic()
        error = self._run()
        ensure_event_loop().close()  # nbclient's own, one for each thread
        self.seconds = time.monotonic() - started
        return error

    def _run(self) -> str:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        for old in (self.target, failed_form(self.target)):
            old.unlink(missing_ok=True)
        unfinished = self.target.with_suffix(".unfinished.ipynb")
        try:
            papermill.execute_notebook(
                self.source,
                unfinished,
                dict(self.parameters),
                engine_name="labreport",
                kernel_name="python3",
                progress_bar=False,
                execution=self,
            )
        except Exception as error:  # whatever it is, the other notebooks go on and the report shows it
            if unfinished.is_file():
                partial = remove_error_markers(nbformat.read(unfinished, as_version=4))
                nbformat.write(partial, failed_form(self.target))
                unfinished.unlink()
            return self._death() if isinstance(error, DeadKernelError) else _in_a_line(error)
        os.replace(unfinished, self.target)
        return ""

    @property
    def _kernel_stderr(self) -> Path:
        """What the kernel process says outside of cells: warnings nobody needs, and the last words of a dying one."""
        return self.scratch / f"{self.source.stem}.stderr"

    def start(self, client: PapermillNotebookClient) -> None:
        """Run the client's notebook; called by the engine."""
        self.client, self.cells = client, len(client.nb.cells)
        client.on_cell_start = lambda cell, cell_index: self._enter(cell_index)
        with open(self._kernel_stderr, "wb") as stderr:
            client.execute(env=dict(self.environment), cwd=str(self.source.parent), stderr=stderr)

    def _enter(self, cell_index: int) -> None:
        if self.stopped:
            self.stop()
        self.cell = cell_index + 1
        self.process = getattr(self.client.km.provisioner, "process", None)

    def _death(self) -> str:
        """What is known of a kernel that died: where, how, its last words; and what to try."""
        stderr = self._kernel_stderr.read_text(errors="replace") if self._kernel_stderr.is_file() else ""
        said = "".join(f"; it said: {line}" for line in stderr.strip().splitlines()[-1:])
        how = how_it_ended(self.process.poll() if self.process else None)
        return f"the kernel died in cell {self.cell} of {self.cells}, {how}: {MEMORY_ADVICE}{said}"

    def stop(self) -> None:
        """Kill the kernel with all its processes; `run` then ends within about a second."""
        self.stopped = True
        provisioner = getattr(getattr(self.client, "km", None), "provisioner", None)
        if getattr(provisioner, "pgid", None):
            with suppress(ProcessLookupError):
                os.killpg(provisioner.pgid, signal.SIGKILL)


def failed_form(target: Path) -> Path:
    """Where an execution that failed leaves the notebook, as far as it got."""
    return target.with_suffix(".failed.ipynb")


class _Engine(NBClientEngine):
    """papermill's own engine, but the kernel gets an environment and the execution knows its client."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, execution: Execution, start_timeout=60, **options):
        # sockets in the file system, not TCP ports: nobody else on the machine can connect
        files = str(execution.scratch / f"{execution.source.stem}.kernel.json")
        client = PapermillNotebookClient(
            nb_man,
            kernel_name=kernel_name,
            startup_timeout=start_timeout,
            coalesce_streams=True,
            config=Config({"KernelManager": {"transport": "ipc", "connection_file": files}}),
        )
        execution.start(client)


papermill_engines.register("labreport", _Engine)


def how_it_ended(status: int | None) -> str:
    """In words, a process's exit status as subprocess has it: below zero for a signal."""
    if status is None:
        return "nobody knows how"
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"


def _in_a_line(error: Exception) -> str:
    if isinstance(error, PapermillExecutionError):
        return f"{error.ename}: {' '.join(error.evalue.split())}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
