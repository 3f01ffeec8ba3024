"""One notebook executed by papermill, in a kernel that is ours."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from toy_project import PARAMETERS, WRITE_RESULTS, write_notebook

from labreport.run.execution import Execution, failed_form

NAME = "01_first"
RESULTS = ("", WRITE_RESULTS.format(name=NAME))


@pytest.fixture
def make(tmp_path):
    """Execution of a notebook with the given code cells: (tag, source), or the source alone."""

    def execution(*cells, parameters=(), folder: Path = tmp_path, **environment: str) -> Execution:
        source = folder / "notebooks" / f"{NAME}.ipynb"
        tagged = [("", cell) if isinstance(cell, str) else cell for cell in cells]
        write_notebook(source, ("parameters", PARAMETERS), *tagged)
        environment = {**os.environ, "LABREPORT_OUTPUT": str(folder), **environment}
        results = folder / f"results/{NAME}.json" if RESULTS in cells else None
        return Execution(source, folder / f"out/{NAME}.ipynb", dict(parameters), environment, tmp_path, results)

    return execution


def outputs(path) -> list[str]:
    return [out.get("text", "") for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", [])]


def test_parameters_and_environment_arrive_and_the_kernel_works_beside_the_notebook(make):
    execution = make("import os; print(epochs, os.environ['MARK'], os.path.basename(os.getcwd()))",
                     parameters={"epochs": 7}, MARK="x")  # fmt: skip
    assert execution.run() == ""
    assert outputs(execution.target) == ["7 x notebooks\n"]
    assert [path.name for path in execution.target.parent.iterdir()] == [f"{NAME}.ipynb"]


def test_a_failure_is_told_in_a_line_and_leaves_no_finished_notebook(make):
    execution = make("print('before')", "raise ValueError('temperature must be\\npositive')", "print('after')")
    execution.target.parent.mkdir()
    execution.target.write_text("of an earlier execution")
    assert execution.run() == "ValueError: temperature must be positive"
    assert not execution.target.exists()
    partial = nbformat.read(failed_form(execution.target), 4)
    assert outputs(failed_form(execution.target))[0] == "before\n"
    assert [cell.source for cell in partial.cells] == [cell.source for cell in nbformat.read(execution.source, 4).cells]


# ---- a notebook is done when it is done --------------------------------------------------------------------

LEAVING = {
    "raise SystemExit": "cell 3 of 4 leaves the notebook (SystemExit): a notebook is done when",
    "raise SystemExit(0)": "cell 3 of 4 leaves the notebook (SystemExit 0): ",
    "import sys; sys.exit('enough')": "cell 3 of 4 leaves the notebook (SystemExit enough): ",
    "exit()": "cell 3 of 4 leaves the notebook (exit()): ",
    "quit()": "cell 3 of 4 leaves the notebook (exit()): ",
    "import os; os._exit(0)": "the kernel died in cell 3 of 4, ended with exit status 0: if memory ran out, use",
    "import os; os.kill(os.getpid(), 9)": "the kernel died in cell 3 of 4, killed by SIGKILL: ",
    "import time; time.sleep(600)": "CellTimeoutError: ",
}


@pytest.mark.parametrize("code", LEAVING)
def test_a_notebook_that_is_left_has_failed_though_its_results_are_there(code, make, monkeypatch):
    def with_a_limit(execution, client, start=Execution.start):
        client.timeout = 1
        start(execution, client)

    if "sleep" in code:
        monkeypatch.setattr(Execution, "start", with_a_limit)
    execution = make(RESULTS, code, "print('after')")
    error = execution.run()
    assert execution.results.is_file()
    assert error.startswith(LEAVING[code]) and "\n" not in error
    assert not execution.target.exists() and failed_form(execution.target).is_file()


def test_left_in_its_last_cell_it_has_failed_too(make):
    assert "cell 3 of 3 leaves the notebook (exit())" in make(RESULTS, "exit()").run()


def test_no_tag_makes_an_error_one_that_does_not_count_or_leaves_a_cell_out(make):
    assert make(("raises-exception", "1 / 0"), RESULTS).run() == "ZeroDivisionError: division by zero"
    assert make(RESULTS, ("skip-execution", "1 / 0")).run() == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("(folder / '01_first.json').unlink()", "01_first wrote no results: its last cell must be lab.finish()"),
        ("(folder / '01_first.json').write_text('{')", "01_first.json is damaged or cannot be read (JSONDecodeError)"),
        ("(folder / '01_first.json').write_text(json.dumps(content | {'series': {'a': 1}}))", "its checksum does not"),
    ],
    ids=["missing", "cut", "changed"],
)
def test_without_whole_results_it_has_failed(spoil, message, make):
    execution = make(RESULTS, spoil)
    assert message in execution.run()
    assert not execution.target.exists() and failed_form(execution.target).is_file()


def test_what_a_full_disk_left_of_a_failed_notebook_is_not_kept(make):
    execution = make()
    unfinished = execution.target.with_suffix(".unfinished.ipynb")
    unfinished.parent.mkdir()
    unfinished.write_text('{"cells": [')
    execution._keep_as_failed(unfinished)
    assert not list(unfinished.parent.iterdir())


# ---- the kernel is ours ------------------------------------------------------------------------------------


def test_the_kernel_is_this_interpreter_whatever_is_installed_and_runs_nobody_s_start_up_files(make, tmp_path):
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false", "{connection_file}"], "display_name": "x", "language": "python"}))
    start_up = tmp_path / "ipython/profile_default/startup/00.py"
    start_up.parent.mkdir(parents=True)
    start_up.write_text("open('/dev/null'); found = ['IPython']")
    (tmp_path / "start.py").write_text("found = ['Python']")
    execution = make("import sys; print(sys.executable, 'found' in globals())",
                     JUPYTER_PATH=str(tmp_path / "jupyter"), IPYTHONDIR=str(tmp_path / "ipython"),
                     PYTHONSTARTUP=str(tmp_path / "start.py"))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))  # the client, not the kernel, looks for it
        assert execution.run() == ""
    assert outputs(execution.target) == [f"{sys.executable} False\n"]


@pytest.mark.parametrize("name", ["{epochs}", "{", "a:b", "it's \"so\"", "$(false) `false` ${HOME}", "日本 é"])
def test_a_folder_of_any_name_will_do(name, make, tmp_path):
    folder = tmp_path / name
    execution = make("import os; print(os.getcwd())", parameters={"epochs": 7}, folder=folder)
    assert execution.run() == ""
    assert outputs(execution.target) == [f"{folder / 'notebooks'}\n"]


EXECUTE = """
import os, sys
from pathlib import Path
from labreport.run.execution import Execution
source, scratch = map(Path, sys.argv[1:])
Execution(source, scratch / "out.ipynb", {}, dict(os.environ), scratch).run()
"""
BELOW_A_SUBREAPER = """
import ctypes, os, signal, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
kernels, ready = os.pipe()
parent = subprocess.Popen(sys.argv[1:], pass_fds=[ready], env={**os.environ, "READY": str(ready)})
kernel = int(os.read(kernels, 20))
parent.kill()
parent.wait()
_, status = os.waitpid(kernel, 0)
print(signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_kernel_ends_with_its_parent_below_a_subreaper_too(make, tmp_path):
    """Killed by the operating system, at once, and not when it notices."""
    source = make("import os, time; "
                  "os.write(os.open(f'/proc/{os.getppid()}/fd/{os.environ[\"READY\"]}', os.O_WRONLY), "
                  "str(os.getpid()).encode()); time.sleep(600)").source  # fmt: skip
    command = [sys.executable, "-c", BELOW_A_SUBREAPER, sys.executable, "-c", EXECUTE, str(source), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "SIGKILL\n", done.stderr


def test_a_kernel_whose_parent_has_ended_before_it_starts_ends_at_once(tmp_path):
    command = [sys.executable, "-m", "labreport.kernel", "-f", str(tmp_path / "connection.json")]
    another = os.getppid()
    environment = {**os.environ, "JPY_PARENT_PID": str(another)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == f"process {another}, which started this kernel, has ended\n"


# ---- stopped -----------------------------------------------------------------------------------------------


def test_a_stopped_execution_ends_and_takes_its_kernel_along(make, tmp_path):
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    execution = make(f"import os, time; open({str(pipe)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    thread = threading.Thread(target=execution.run)
    thread.start()
    pid = int(pipe.read_text())
    execution.stop()
    thread.join(60)
    assert not thread.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_stopped_before_its_kernel_starts_it_runs_nothing(make, tmp_path):
    execution = make(f"open({str(tmp_path / 'mark')!r}, 'w')")
    execution.stop()
    assert execution.run()
    assert not (tmp_path / "mark").exists()
