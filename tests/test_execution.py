"""One notebook executed by papermill."""

import os
import threading
import time

import nbformat
import pytest
from toy_project import PARAMETERS, write_notebook

from labreport.execution import Execution, failed_form


@pytest.fixture
def make(tmp_path):
    """Execution of a notebook with the given code cells."""

    def execution(*sources: str, parameters=(), **environment: str) -> Execution:
        source = tmp_path / "notebooks" / "01_first.ipynb"
        write_notebook(source, ("parameters", PARAMETERS), *(("", code) for code in sources))
        environment = {**os.environ, **environment}
        return Execution(source, tmp_path / "out" / "01_first.ipynb", dict(parameters), environment, tmp_path)

    return execution


def outputs(path) -> list[str]:
    return [out.get("text", "") for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", [])]


def test_parameters_and_environment_arrive_and_the_kernel_works_beside_the_notebook(make):
    execution = make("import os; print(epochs, os.environ['MARK'], os.path.basename(os.getcwd()))",
                     parameters={"epochs": 7}, MARK="x")  # fmt: skip
    assert execution.run() == ""
    assert outputs(execution.target) == ["7 x notebooks\n"]
    assert [path.name for path in execution.target.parent.iterdir()] == ["01_first.ipynb"]


def test_a_failure_is_told_in_a_line_and_leaves_no_finished_notebook(make):
    execution = make("print('before')", "raise ValueError('temperature must be\\npositive')", "print('after')")
    execution.target.parent.mkdir()
    execution.target.write_text("of an earlier execution")
    assert execution.run() == "ValueError: temperature must be positive"
    assert not execution.target.exists()
    partial = nbformat.read(failed_form(execution.target), 4)
    assert outputs(failed_form(execution.target))[0] == "before\n"
    assert [cell.source for cell in partial.cells] == [cell.source for cell in nbformat.read(execution.source, 4).cells]


@pytest.mark.parametrize(
    ("death", "how"),
    [("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"), ("os._exit(3)", "ended with exit status 3")],
    ids=["killed", "exit"],
)
def test_a_kernel_that_dies_is_noticed_within_seconds(make, death, how):
    execution = make("print('before')", f"import os, signal, sys; print('farewell', file=sys.__stderr__); {death}")
    started = time.monotonic()
    error = execution.run()
    assert time.monotonic() - started < 15
    assert error.startswith(f"the kernel died in cell 3 of 3, {how}: if memory ran out, use a smaller batch_size")
    assert "\n" not in error
    assert not execution.target.exists()
    assert "before\n" in outputs(failed_form(execution.target))


def test_a_stopped_execution_ends_within_seconds_and_takes_its_kernel_along(make, tmp_path):
    execution = make(f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    thread = threading.Thread(target=execution.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text()):
        assert time.monotonic() < deadline, "the kernel never started"
        time.sleep(0.05)
    execution.stop()
    thread.join(15)
    assert not thread.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_stopped_before_its_kernel_starts_it_runs_nothing(make, tmp_path):
    execution = make(f"open({str(tmp_path / 'mark')!r}, 'w')")
    execution.stop()
    assert execution.run()
    assert not (tmp_path / "mark").exists()
