"""One notebook executed by papermill: temporary name, rename after success, a kernel that can be stopped."""

import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers
from traitlets.config import Config

from labreport.results import read_results
from labreport.text import how_it_ended
from simclr_core.errors import UserError

MEMORY_ADVICE = "if memory ran out, use a smaller batch_size, micro_batch, or fewer --jobs"


@dataclass
class Execution:
    """A notebook on its way; `cell` of `cells` may be read from another thread meanwhile.

    Args:
        source: the notebook; its folder is the kernel's working folder.
        target: where the executed notebook goes; only a complete one gets this name.
        parameters: JSON types, injected after the cell tagged `parameters`.
        environment: the kernel's environment variables, all of them.
        scratch: an existing folder for what the kernel needs while it lives, from labreport.scratch: the paths of
            its sockets must be short.
        results: the results file that the last cell writes; None: it writes none.
    """

    source: Path
    target: Path
    parameters: Mapping[str, Any]
    environment: Mapping[str, str]
    scratch: Path
    results: Path | None = None
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
                _literally(self.source),
                _literally(unfinished),
                dict(self.parameters),
                engine_name="labreport",
                kernel_name="python3",
                progress_bar=False,
                execution=self,
            )
            if self.results:
                read_results(self.results)
            os.replace(unfinished, self.target)
        except Exception as error:  # whatever it is, the other notebooks go on and the report shows it
            self._keep_as_failed(unfinished)
            died = isinstance(error, DeadKernelError) or "Kernel died" in str(error)  # at its start a RuntimeError
            return self._death() if died else _in_a_line(error)
        return ""

    def _keep_as_failed(self, unfinished: Path) -> None:
        """As far as it got, if it can be read: a full disk cuts it off."""
        try:
            partial = remove_error_markers(nbformat.read(unfinished, as_version=4))
            nbformat.write(partial, failed_form(self.target))
        except (OSError, ValueError):
            failed_form(self.target).unlink(missing_ok=True)
        unfinished.unlink(missing_ok=True)

    @property
    def _kernel_stderr(self) -> Path:
        """What the kernel process says outside of cells: warnings nobody needs, and the last words of a dying one."""
        return self.scratch / f"{self.source.stem}.stderr"

    def start(self, client: PapermillNotebookClient) -> None:
        """Run the client's notebook; called by the engine."""
        self.client, self.cells = client, len(client.nb.cells)
        client.on_cell_start = lambda cell, cell_index: self._enter(cell_index)
        client.on_cell_executed = lambda cell, cell_index, execute_reply: self._check_stays(execute_reply["content"])
        # nothing of the user's own: no start-up file, no profile, no history
        environment = {**self.environment, "IPYTHONDIR": str(self.scratch / f"{self.source.stem}.ipython")}
        environment.pop("PYTHONSTARTUP", None)
        with open(self._kernel_stderr, "wb") as stderr:
            client.execute(env=environment, cwd=str(self.source.parent), stderr=stderr)

    def _check_stays(self, reply: Mapping[str, Any]) -> None:
        """papermill takes a SystemExit for success, and exit() ends the kernel in the middle of what follows."""
        asked = any(payload.get("source") == "ask_exit" for payload in reply.get("payload", ()))
        if asked or reply.get("ename") == "SystemExit":
            how = "exit()" if asked else " ".join(f"SystemExit {reply.get('evalue', '')}".split())
            raise UserError(f"cell {self.cell} of {self.cells} leaves the notebook ({how}): a notebook is done when "
                            "its last cell is")  # fmt: skip

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
        where = f"in cell {self.cell} of {self.cells}" if self.cell else "as it started"
        return f"the kernel died {where}, {how}: {MEMORY_ADVICE}{said}"

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


class _KernelManager(AsyncKernelManager):
    """Starts our kernel with this interpreter, whatever kernels are installed under whichever name."""

    @property
    def kernel_spec(self) -> KernelSpec:
        # -P: what lies in the notebook's folder is not for Python's own start; IPython adds it
        command = [sys.executable, "-P", "-m", "labreport.kernel", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


class _Engine(NBClientEngine):
    """papermill's own engine, but the kernel gets an environment and the execution knows its client."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, execution: Execution, start_timeout=60, **options):
        # sockets in the file system, not TCP ports: nobody else on the machine can connect
        files = str(execution.scratch / f"{zlib.crc32(execution.source.stem.encode()):08x}.json")
        client = PapermillNotebookClient(
            nb_man,
            kernel_name=kernel_name,
            kernel_manager_class=_KernelManager,
            startup_timeout=start_timeout,
            coalesce_streams=True,
            force_raise_errors=True,  # no tag of a cell makes an error one that does not count,
            skip_cells_with_tag="",  # or a cell one that does not run
            config=Config({"KernelManager": {"transport": "ipc", "connection_file": files}}),
        )
        execution.start(client)


papermill_engines.register("labreport", _Engine)


def _literally(path: Path) -> str:
    """As papermill wants a path that holds no parameter: it fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _in_a_line(error: Exception) -> str:
    if isinstance(error, PapermillExecutionError):
        return f"{error.ename}: {' '.join(error.evalue.split())}"
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
