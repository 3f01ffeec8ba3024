"""A notebook's kernel: `python -P -m labreport.kernel -f <connection file>`, which ends with whoever started it.

ipykernel looks for a new parent once a second, but from its own start on: one whose parent died before, or in an older
version below a subreaper (tini -s, systemd --user), lives on for ever. The operating system's own signal does not.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; the parent is the thread that started this process


def end_with(parent: int) -> None:
    """From now on this process is killed when its parent ends (Linux), and at once if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(f"process {parent}, which started this kernel, has ended")


if __name__ == "__main__":
    end_with(int(os.environ["JPY_PARENT_PID"]))  # jupyter_client says so
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()
