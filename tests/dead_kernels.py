"""nbval waits for a dead kernel's answer until its cell timeout, 120 seconds here; with this it is noticed in a second.

A conftest.py takes the hook from here. The kernel's notebook fails at the cell that died, its later cells are left out
as after a timeout, and the other notebooks go on.
"""

import time
from queue import Empty

import pytest
from nbval.kernel import RunningKernel

from labreport.run.execution import MEMORY_ADVICE
from labreport.text import how_it_ended

LOOK_SECONDS = 1.0
_get_message = RunningKernel.get_message


class KernelDied(Exception):
    pass


def _get_message_of_the_living(kernel: RunningKernel, stream: str, timeout: float | None = None):
    """nbval's get_message, but it looks every second whether anybody is there to answer."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = LOOK_SECONDS if deadline is None else deadline - time.monotonic()
        process = getattr(kernel.km.provisioner, "process", None)
        alive = kernel.is_alive()  # asked first: what a dying kernel still said is read below
        try:
            return _get_message(kernel, stream, max(0.0, min(left, LOOK_SECONDS)))
        except Empty:
            if not alive:
                raise KernelDied(how_it_ended(process.poll() if process else None)) from None
            if left <= LOOK_SECONDS and deadline is not None:
                raise


RunningKernel.get_message = _get_message_of_the_living


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except KernelDied as death:
        item.parent.timed_out = True  # nbval's own mark: later cells are expected to fail
        item.raise_cell_error(f"the kernel of {item.path.name} died, {death}: {MEMORY_ADVICE}")
