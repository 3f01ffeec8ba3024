"""nbval notices within seconds that a notebook's kernel has died, and goes on with the other notebooks."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook


def write_reference(path: Path, *sources: str) -> None:
    cells = [new_code_cell(source, id=f"c{k}", execution_count=k) for k, source in enumerate(sources, start=1)]
    nbformat.write(new_notebook(cells=cells), path)


def nbval(folder: Path, timeout: int) -> tuple[int, str]:
    """Exit status and output of nbval on the folder's notebooks, `timeout` seconds for a cell."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text("from dead_kernels import pytest_runtest_call\n")
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env",
               "--nbval-cell-timeout", str(timeout)]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("death", "how"),
    [("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"), ("os._exit(3)", "ended with exit status 3")],
    ids=["killed", "exit"],
)
def test_nbval_notices_a_dead_kernel_within_seconds_and_goes_on(tmp_path, death, how):
    write_reference(tmp_path / "01_dies.ipynb", "x = 1", f"import os, signal; {death}", "x")
    write_reference(tmp_path / "02_lives.ipynb", "import time; time.sleep(2.5)")  # longer than a look takes
    status, said = nbval(tmp_path, timeout=600)
    assert status == 1
    assert said.split()[0] == ".Fx."  # the cell that died, the one after it, the other notebook
    assert f"the kernel of 01_dies.ipynb died, {how}: if memory ran out, use a smaller batch_size" in said


def test_nbval_s_own_timeout_still_holds(tmp_path):
    write_reference(tmp_path / "01_slow.ipynb", "import time; time.sleep(60)")
    status, said = nbval(tmp_path, timeout=3)
    assert status == 1
    assert "Timeout of 3 seconds exceeded" in said
