"""What is executed again and what is taken as it was; results; a report although a notebook failed."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from unittest.mock import patch

import nbformat
import pytest
from filelock import FileLock
from toy_project import make_project, study_cells, write_notebook

from labreport.project import Project
from labreport.run import executed, runner
from labreport.run.execution import Execution
from labreport.run.runner import Job, execute_notebooks, only_one

FIRST, SECOND, SUMMARY = "01_first", "02_second", "99_summary"


class Lines:
    """A reporter that keeps what was said."""

    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)

    def update(self, watched):
        pass

    def executed(self) -> set[str]:
        """Names of the notebooks executed since the last call."""
        names = {line.split(":")[0] for line in self.said if "unchanged" not in line}
        self.said.clear()
        return names


class InProcess(Execution):
    """Executes here, without a kernel (a second and more each); test_execution is about the kernels."""

    def run(self):
        notebook = nbformat.read(self.source, 4)
        namespace, printed = {}, io.StringIO()
        with patch.dict(os.environ, self.environment), redirect_stdout(printed):
            try:
                for cell in notebook.cells:
                    if cell.cell_type == "code" and "IPython" not in cell.source:
                        exec(cell.source, namespace)
                    if "parameters" in cell.metadata.get("tags", []):
                        namespace |= self.parameters
            except Exception as error:
                return f"{type(error).__name__}: {error}"
        notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text=printed.getvalue())]
        self.target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, self.target)
        return ""


@pytest.fixture
def without_kernels(monkeypatch):
    monkeypatch.setattr(runner, "Execution", InProcess)


@pytest.fixture
def job(tmp_path) -> Job:
    project = Project(make_project(tmp_path))
    names = project.notebook_names()
    return Job(project, {name: {} for name in names}, project.report("tiny"), tmp_path / "runs", jobs=2)


def results(job) -> dict:
    return json.loads((job.output / "results.json").read_text())


def summary_text(job) -> str:
    notebook = nbformat.read(job.output / "notebooks" / "99_summary.ipynb", 4)
    return next(output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)


def edit(job, name, *more):
    write_notebook(job.project.notebook(name), *study_cells(name, *more))


def test_only_what_changed_is_executed_again(job, without_kernels, monkeypatch):
    lines = Lines()
    assert execute_notebooks(job, {}, lines) == {FIRST: "", SECOND: "", SUMMARY: ""}
    assert lines.executed() == {FIRST, SECOND, SUMMARY}
    assert set(results(job)["notebooks"]) == {FIRST, SECOND}
    first = (job.output / "results.json").read_bytes()

    execute_notebooks(job, {}, lines)
    assert lines.executed() == set()
    assert (job.output / "results.json").read_bytes() == first

    notebook = nbformat.read(job.project.notebook(FIRST), 4)
    notebook.cells[0].source = "# Another title"
    nbformat.write(notebook, job.project.notebook(FIRST))
    execute_notebooks(job, {}, lines)  # the results are the same, and so is the summary
    assert lines.executed() == {FIRST}

    job = replace(job, parameters={**job.parameters, SECOND: {"epochs": 9}})
    execute_notebooks(job, {}, lines)
    assert lines.executed() == {SECOND, SUMMARY}

    monkeypatch.setattr(runner, "unlocked", lambda lock: ["numpy 2 (locked 3)"])
    execute_notebooks(job, {}, lines)  # its appendix says so
    assert lines.executed() == {SUMMARY}

    job = replace(job, inputs={FIRST: {"data": "another fingerprint"}})
    execute_notebooks(job, {}, lines)
    assert lines.executed() == {FIRST}

    assert runner.stale_notebooks(job) == []
    monkeypatch.setattr(executed, "_source_hash", lambda: "our packages changed")
    assert runner.stale_notebooks(job) == [FIRST, SECOND]


def test_a_failing_notebook_does_not_stop_the_others_and_leaves_no_results(job, without_kernels):
    edit(job, FIRST, "raise RuntimeError('out of luck')")
    errors = execute_notebooks(job, {}, Lines())
    assert errors == {FIRST: "RuntimeError: out of luck", SECOND: "", SUMMARY: ""}
    assert set(results(job)["notebooks"]) == {SECOND}
    assert results(job)["failed"] == {FIRST: "RuntimeError: out of luck"}
    assert summary_text(job) == "found ['02_second'] failed ['01_first']\n"

    edit(job, FIRST)
    lines = Lines()
    assert execute_notebooks(job, {}, lines)[FIRST] == ""
    assert lines.executed() == {FIRST, SUMMARY}
    assert summary_text(job) == "found ['01_first', '02_second'] failed []\n"


def test_results_of_notebooks_not_asked_for_are_out_of_the_way_and_come_back(job, without_kernels):
    execute_notebooks(job, {}, Lines())
    execute_notebooks(replace(job, parameters={FIRST: {}, SUMMARY: {}}), {}, Lines())
    assert set(results(job)["notebooks"]) == {FIRST}
    assert summary_text(job) == "found ['01_first'] failed []\n"
    lines = Lines()
    execute_notebooks(job, {}, lines)
    assert lines.executed() == {SUMMARY}
    assert set(results(job)["notebooks"]) == {FIRST, SECOND}


def test_a_cut_off_execution_is_not_taken_for_a_finished_one(job, without_kernels):
    lines = Lines()
    small = replace(job, parameters={FIRST: {}})
    execute_notebooks(small, {}, lines)
    for name in ("01_first.json", "01_first.ipynb"):
        lines.executed()
        (job.output / "notebooks" / name).unlink()
        execute_notebooks(small, {}, lines)
        assert lines.executed() == {FIRST}
    (job.output / "notebooks" / "01_first.json").write_text('{"key": ')
    lines.executed()
    execute_notebooks(small, {}, lines)
    assert lines.executed() == {FIRST}


def test_two_notebooks_run_at_a_time_and_the_summary_after_them(job, tmp_path):
    meet = "import os, time\nopen({mine!r}, 'w')\nfor _ in range(300):\n    time.sleep(0.1)\n    if os.path.exists({other!r}): break\nelse: raise SystemError('alone')"  # noqa: E501
    paths = {name: str(tmp_path / name) for name in (FIRST, SECOND)}
    edit(job, FIRST, meet.format(mine=paths[FIRST], other=paths[SECOND]))
    edit(job, SECOND, meet.format(mine=paths[SECOND], other=paths[FIRST]))
    assert execute_notebooks(job, {}, Lines()) == {FIRST: "", SECOND: "", SUMMARY: ""}
    assert summary_text(job) == "found ['01_first', '02_second'] failed []\n"


def test_a_damaged_executed_notebook_is_executed_again_and_not_rendered(job, without_kernels, capsys):
    small = replace(job, parameters={FIRST: {}, SUMMARY: {}})
    execute_notebooks(small, {}, Lines())
    path = job.output / "notebooks" / "01_first.ipynb"
    whole, content = path.read_bytes(), results(job)
    path.write_bytes(whole.replace(b"# 01_first", b"# 01_fjrst"))
    assert path.read_bytes() != whole
    lines = Lines()
    assert runner.stale_notebooks(small) == [FIRST]
    execute_notebooks(small, {}, lines)
    assert lines.executed() == {FIRST}
    assert f"{path} is damaged (its checksum does not fit); set aside as" in capsys.readouterr().err
    assert path.read_bytes() == whole and results(job) == content
    execute_notebooks(small, {}, lines)
    assert lines.executed() == set()


def test_kernels_find_report_store_threads_and_progress_file(job, monkeypatch, tmp_path):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("LABREPORT_FROM", "1")
    write_notebook(job.project.notebook(FIRST), ("parameters", "threads = 3"))
    environment = job.kernel_environment(FIRST, tmp_path / "events")
    assert environment["LABREPORT_OUTPUT"] == str(job.output)
    assert environment["SIMCLR_RUNS"] == str(job.store)
    assert environment["LABREPORT_PROGRESS"] == str(tmp_path / "events")
    assert environment["OMP_NUM_THREADS"] == "3"
    assert not environment.keys() & {"MPLBACKEND", "LABREPORT_FROM"}
    assert replace(job, from_store=True).kernel_environment(FIRST, tmp_path)["LABREPORT_FROM"] == "1"


def test_interrupted_it_stops_its_kernels_and_keeps_what_was_finished(job, tmp_path):
    edit(job, SECOND, f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)")

    class Impatient(Lines):
        def update(self, watched):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                raise KeyboardInterrupt

    lines = Impatient()
    with pytest.raises(KeyboardInterrupt):
        execute_notebooks(replace(job, jobs=1), {}, lines)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert lines.executed() == {FIRST}
    edit(job, SECOND)
    lines = Lines()
    execute_notebooks(job, {}, lines)
    assert lines.executed() == {SECOND, SUMMARY}


def hold_lock(folder) -> subprocess.Popen:
    """Another process that holds the report's lock until its input is closed."""
    hold = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(folder / ".lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    return holder


def test_a_killed_call_s_lock_on_the_report_is_taken_over_without_a_word(tmp_path):
    with hold_lock(tmp_path) as holder:
        holder.kill()
    lines = Lines()
    with only_one(tmp_path, lines):
        assert lines.said == []


def test_a_second_call_on_the_same_report_waits_and_says_so(tmp_path):
    class Releases(Lines):
        """The other call ends when it is said that somebody waits for it."""

        def say(self, line):
            super().say(line)
            holder.stdin.close()

    lines = Releases()
    with hold_lock(tmp_path) as holder, only_one(tmp_path, lines):
        assert lines.said == [f"another run_all.sh is at work on {tmp_path}: waiting for it to end"]
    assert not FileLock(tmp_path / ".lock").is_locked
