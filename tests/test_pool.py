"""Runs computed before the notebooks: each once, to the bit as one after the other, whoever dies on the way."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from toy_project import PARAMETERS, PLAN, SETUP, WRITE_RESULTS, make_project, planned_cells, write_notebook

from labreport import session
from labreport.cli import main
from labreport.run import report
from labreport.run.plan import Cost, PlannedRun
from labreport.run.progress import Reporter
from labreport.store import pretrain
from labreport.store.identity import run_name
from labreport.store.runs import kept_name, read_history
from labreport.workers import processes
from labreport.workers.pool import TRIES, Computation, WorkerDied
from labreport.workers.processes import Processes
from labreport.workers.worker import compute, work_item
from simclr_core.config import Own, PretrainConfig
from simclr_core.data import load_dataset
from simclr_core.errors import UserError

CONFIG = PretrainConfig("digits", (0, 64), batch_size=32, epochs=2, lr=0.1)
# In every worker: checkpoints after each step, a line a training begun, and what the test adds.
IN_WORKERS = """
import importlib, os, signal, time
from pathlib import Path
from simclr_core.train import Training

store = importlib.import_module("labreport.store.train")
store.CHECKPOINT_SECONDS = 0.0
folder, real_train, real_step = Path({folder!r}), store.Book.train, Training.step

def noted_train(book, progress):
    how = "resumed" if book.training.steps_done else "anew"
    with open(folder / "trainings", "a") as file:
        file.write(f"{{book.training.seed}} {{how}} {{os.getpid()}}\\n")
    real_train(book, progress)

def first_time(name):
    try:
        return bool(os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL)) or True)
    except FileExistsError:
        return False

def at(training, seed, epochs, steps):
    return (training.seed, *divmod(training.steps_done, training.steps_per_epoch)) == (seed, epochs, steps)

def step(training, *views):
{before_step}
    return real_step(training, *views)

store.Book.train, Training.step = noted_train, step
"""
DIES_ONCE = "    if at(training, 1, 1, 1) and first_time('died'): os.kill(os.getpid(), signal.SIGKILL)"
HANGS_ONCE = "    if at(training, 1, 1, 1) and first_time('hangs'): time.sleep(100)"


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits")


@pytest.fixture
def patch_workers(tmp_path, monkeypatch):
    """Call it with code for each step; Python runs a sitecustomize.py that it finds, in the workers too."""

    def patch(before_step: str = "    pass") -> None:
        folder = tmp_path / "patched"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(IN_WORKERS.format(folder=str(tmp_path), before_step=before_step))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))

    return patch


def planned(config: PretrainConfig, data, store: Path, stored: bool = False) -> PlannedRun:
    return PlannedRun(run_name(config, data), config, data, stored)


def computation(workers, store: Path, runs, keep=None) -> Computation:
    cost = {run.name: Cost(run.config.epochs, 10.0 * run.config.epochs) for run in runs}
    return Computation(workers, store, keep or {}, cost, Reporter())


def seeds(count: int, data, store: Path) -> list[PlannedRun]:
    return [planned(replace(CONFIG, seed=seed), data, store) for seed in range(count)]


def trainings(tmp_path: Path) -> list[str]:
    """ "<seed> anew" or "<seed> resumed", a training begun."""
    return [line.rpartition(" ")[0] for line in (tmp_path / "trainings").read_text().splitlines()]


def assert_equal_to_one_after_the_other(runs, store: Path, alone: Path, keep=()) -> None:
    """To the bit; times may differ."""
    for run in runs:
        expected = pretrain(run.config, run.data, alone, keep).path
        weights = ["encoder.safetensors", "projection_head.safetensors", *map(kept_name, keep)]
        for name in weights:
            assert (store / run.name / name).read_bytes() == (expected / name).read_bytes(), (run.name, name)
        losses = [[row["loss"] for row in read_history(path / "history.csv")] for path in (store / run.name, expected)]
        assert losses[0] == losses[1]


# ---- order and failures, without processes ------------------------------------------------------------------


class Promised:
    """Workers that answer at once: each run's answers in turn, then "" and a run in the store."""

    def __init__(self, store: Path, answers=None, slots: int = 1):
        self.store, self.answers, self.count, self.submitted, self.stopped = store, answers or {}, slots, [], False
        self.progress: dict[str, dict] = {}

    def slots(self) -> int:
        return self.count

    def submit(self, item) -> Future:
        self.submitted.append(item["run"])
        future, answers = Future(), self.answers.get(item["run"], [])
        answer = answers.pop(0) if answers else compute(item)
        future.set_exception(answer) if isinstance(answer, Exception) else future.set_result(answer)
        return future

    def stop(self) -> None:
        self.stopped = True


def test_the_longest_run_is_first_each_once_and_stored_ones_are_skipped(data, tmp_path):
    short, long, middle, stored = (planned(replace(CONFIG, epochs=n), data, tmp_path) for n in (1, 4, 3, 2))
    workers = Promised(tmp_path)
    runs = [short, long, middle, short, replace(stored, stored=True)]
    assert computation(workers, tmp_path, runs).run(runs) == {}
    assert workers.submitted == [long.name, middle.name, short.name]
    assert workers.stopped


def test_what_the_user_can_mend_is_told_once_and_the_other_runs_go_on(data, tmp_path, capsys):
    first, second = seeds(2, data, tmp_path)
    workers = Promised(tmp_path, {first.name: ["the loss is nan"]})
    assert computation(workers, tmp_path, [first, second]).run([first, second]) == {first.name: "the loss is nan"}
    assert workers.submitted == [first.name, second.name]
    assert f"{first.name}: failed: the loss is nan; 1 left, 20 s to go\n" in capsys.readouterr().out


def test_a_run_is_given_up_after_three_dead_workers_in_one_line(data, tmp_path, capsys):
    first, second = seeds(2, data, tmp_path)
    workers = Promised(tmp_path, {first.name: [WorkerDied("killed by SIGKILL"), MemoryError("on the\nGPU")] * 2})
    failed = computation(workers, tmp_path, [first, second]).run([first, second])
    assert failed == {first.name: "3 workers died on it, the last one: killed by SIGKILL"}
    assert workers.submitted == [first.name] * TRIES + [second.name]
    assert f"{first.name}: its worker died (MemoryError: on the); another takes over\n" in capsys.readouterr().out


def test_a_run_that_its_worker_left_in_another_store_has_failed(data, tmp_path):
    (run,) = seeds(1, data, tmp_path)
    (failure,) = computation(Promised(tmp_path, {run.name: [""]}), tmp_path, [run]).run([run]).values()
    assert f"it is not in {tmp_path}, which all machines must share" in failure


def test_time_to_go_follows_the_pace_of_the_finished_runs_and_the_epochs_of_those_under_way(data, tmp_path):
    first, second, third = seeds(3, data, tmp_path)  # 20 s each by the estimate
    workers = Promised(tmp_path, slots=2)
    work = computation(workers, tmp_path, [first, second, third])
    work.waiting = [first, second, third]
    assert work._left() == "3 left, 30 s to go"
    work.estimated, work.needed = 20.0, 30.0
    assert work._left() == "3 left, 45 s to go"
    work.running[Future()] = work.waiting.pop(), time.monotonic() - 10
    assert work._left() == "3 left, 40 s to go"
    workers.progress[third.name] = {"epoch": 1, "epochs": 2, "loss": 3.14159, "seconds_left": 90.0}
    assert work.describe() == ("pre-training: 3 left, 90 s to go; under way: "
                               f"{third.name} (epoch 1 of 2, loss 3.142)")  # fmt: skip


def test_a_run_with_a_part_of_its_own_is_refused_before_any_is_computed(data, tmp_path):
    (first,) = seeds(1, data, tmp_path)
    own = planned(replace(CONFIG, own=Own(loss=lambda z_i, z_j: (z_i - z_j).norm())), data, tmp_path)
    workers = Promised(tmp_path)
    message = f"{own.name} has a part of its own (loss), defined in a notebook, where workers cannot read it"
    with pytest.raises(UserError, match=f"^{re.escape(message)}; leave out --workers and --ray$"):
        computation(workers, tmp_path, [first, own]).run([first, own])
    assert not workers.submitted


def test_a_worker_with_other_data_says_so(data, tmp_path):
    item = work_item(planned(CONFIG, data, tmp_path), (), tmp_path) | {"fingerprint": "0" * 64}
    assert "the worker's digits is another version than the one planned with" in compute(item)
    assert not list(tmp_path.iterdir())


# ---- processes ----------------------------------------------------------------------------------------------


def check_all_kinds_of_ends(workers, output: io.StringIO, data, folder: Path) -> list[str]:
    """Three good runs, one of whose workers is killed, and one that no worker can finish; returns what was said."""
    runs, bad = seeds(3, data, folder), planned(replace(CONFIG, lr=1e30, seed=9), data, folder)
    work = computation(workers, folder / "store", [*runs, bad], {run.name: [1] for run in runs})
    work.reporter = Reporter(output)
    failed = work.run([*runs, bad])
    assert list(failed) == [bad.name] and "the loss is" in failed[bad.name]
    assert sorted(trainings(folder)) == ["0 anew", "1 anew", "1 resumed", "2 anew", "9 anew"]
    assert_equal_to_one_after_the_other(runs, folder / "store", folder / "alone", keep=(1,))
    lines = output.getvalue().splitlines()
    assert f"{runs[0].name}: started, 3 waiting" in lines
    assert sum("failed" in line for line in lines) == 1
    assert any(line.startswith(f"{runs[1].name}: its worker died (") for line in lines)
    assert [line for line in lines if "left" in line][-1].endswith("none left")
    return lines


@pytest.mark.slow
def test_runs_by_processes_equal_those_one_after_the_other_even_if_one_is_killed(data, tmp_path, patch_workers):
    patch_workers(DIES_ONCE)
    output = io.StringIO()
    lines = check_all_kinds_of_ends(Processes(2, "cpu", Reporter(output)), output, data, tmp_path)
    run = planned(replace(CONFIG, seed=1), data, tmp_path).name
    assert f"{run}: its worker died (killed by SIGKILL); another takes over" in lines
    assert f"  {run}: resumed after epoch 1 of 2 and 1 steps" in lines


def test_a_line_of_progress_that_cannot_be_read_is_passed_over():
    workers = Processes(1, "cpu", Reporter(io.StringIO()))
    workers._hear("a", 'progress: {"epoch": 1}')
    workers._hear("a", 'progress: {"epoch": 2}libfoo: a warning')
    assert workers.progress == {"a": {"epoch": 1}}
    workers.stop()


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert processes.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    workers = Processes(2, "cuda", Reporter())
    assert [process.place["CUDA_VISIBLE_DEVICES"] for process in workers.processes] == ["3", "GPU-5"]
    monkeypatch.setenv("SIMCLR_DECODERS", "5")
    assert {process.place["SIMCLR_DECODERS"] for process in Processes(2, "cuda", Reporter()).processes} == {"5"}
    monkeypatch.delenv("SIMCLR_DECODERS")
    monkeypatch.setattr(processes, "decoders", lambda: 7)
    assert {process.place["SIMCLR_DECODERS"] for process in Processes(2, "cuda", Reporter()).processes} == {"3"}
    with pytest.raises(UserError, match="--workers 3: each takes a GPU and there are 2 here; give 2"):
        Processes(3, "cuda", Reporter())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_or_kill_ends_the_workers_and_leaves_a_checkpoint(root, tmp_path, data, patch_workers, number):
    """The call hangs in the last epoch of the second of two runs; then `run 2` goes on from there."""
    patch_workers(HANGS_ONCE)
    options = ["--profile", "tiny", "--only", "1", "--seeds", "0,1"]
    call = ("import sys, pathlib; from labreport.cli import main; "
            "sys.exit(main(sys.argv[2:], pathlib.Path(sys.argv[1])))")  # fmt: skip
    command = [sys.executable, "-c", call, str(root), *options, "--workers", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # not ignored, as in the background
    )  # fmt: skip
    wait_for(lambda: (tmp_path / "hangs").exists())
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert number == signal.SIGKILL or error.startswith("\nstopped; finished epochs and notebooks are kept")
    pids = {int(line.split()[-1]) for line in (tmp_path / "trainings").read_text().splitlines()}
    wait_for(lambda: not any(alive(pid) for pid in pids))
    run = seeds(2, data, root)[1]
    assert (root / "runs" / run.name / "checkpoint.pt").is_file()
    if number == signal.SIGINT:
        assert main(["run", "2", *options], root) == 0
        assert trainings(tmp_path)[-1] == "1 resumed"
        assert_equal_to_one_after_the_other([run], root / "runs", tmp_path / "alone")


def wait_for(condition, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- the command line ---------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A toy checkout whose first two notebooks plan the same run a seed, the second with one more epoch besides."""
    monkeypatch.delenv("SIMCLR_DATA", raising=False)
    monkeypatch.setattr(report, "render", _render)
    root = make_project(tmp_path / "root")
    more = PLAN + 'plan["more"] = PretrainConfig(dataset, (0, 64), batch_size=32, epochs=epochs + 1, lr=lr)'
    write_notebook(root / "notebooks/01_first.ipynb", *planned_cells("01_first"),
                   ("", WRITE_RESULTS.format(name="01_first")))  # fmt: skip
    write_notebook(root / "notebooks/02_second.ipynb", ("parameters", PARAMETERS), ("setup", SETUP), ("plan", more))
    (root / "notebooks/profiles/tiny.yaml").write_text("01_first: {}\n02_second: {}\n")
    return root


def _render(sections, front, output):
    return output / "report.html", output / "report.pdf"


def stored_runs(root: Path) -> set[str]:
    return {path.parent.name for path in (root / "runs").glob("*/provenance.json")}


@pytest.mark.slow
def test_the_list_numbers_each_run_once_and_run_takes_that_number_or_the_folder(root, data, capsys):
    options = ["--profile", "tiny", "--seeds", "0,1"]
    assert main([*options, "--list"], root) == 0
    listed = [
        line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("  ") and "PFLOP" in line
    ]
    assert [number for number, _ in listed] == ["1", "2", "1", "2", "3", "4"]
    assert listed[:2] == listed[2:4]
    names = [name for _, name in listed[2:]]
    assert names[1] == run_name(replace(CONFIG, seed=1), data)
    assert main(["run", "4", *options], root) == 0
    assert stored_runs(root) == {names[3]}
    assert not (root / "reports").exists()
    for word in ("4", names[3]):
        capsys.readouterr()
        assert main(["run", word, *options], root) == 0
        assert capsys.readouterr().out == f"run 4 of 4: {names[3]}, stored\n"


@pytest.mark.slow
def test_notebooks_run_after_the_pool_even_if_a_run_failed_which_gives_status_1(root, data, capsys):
    options = ["--profile", "tiny", "--only", "1", "--set", "1.lr=1.0e+30"]
    assert main([*options, "--workers", "2"], root) == 1
    lines = capsys.readouterr().out.splitlines()
    (failed,) = [line for line in lines if "the loss is" in line]
    name = failed.split(":")[0]
    assert lines.index(failed) < next(k for k, line in enumerate(lines) if line.startswith("01_first: executed in"))
    assert lines[-1] == f"failed before the notebooks: {name}; said above, why"


@pytest.mark.slow
def test_a_report_with_workers_has_its_runs_in_the_store_before_the_notebooks(root, data, capsys, monkeypatch):
    def execute(job, to_train, reporter):
        reporter.say(f"notebooks, to train: {to_train}, stored: {stored_runs(root)}")
        return {}

    monkeypatch.setattr(session, "execute_notebooks", execute)
    monkeypatch.setattr(report, "make_report", lambda *_: [])
    monkeypatch.setattr(report, "results_table", lambda _: "a table")
    assert main(["--profile", "tiny", "--only", "1", "--workers", "1"], root) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("  ")]
    name = run_name(CONFIG, data)
    assert lines[1].startswith("1 runs, 0 stored, 1 to train: ")
    assert lines[2] == f"{name}: started, 0 waiting"
    assert lines[3].startswith(f"{name}: stored after ") and lines[3].endswith("; none left")
    assert lines[4] == f"notebooks, to train: {{'01_first': 0}}, stored: {{{name!r}}}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run 3", "run 3: the list has 2 runs, counted from 1; --list numbers them"),
        ("run 0", "run 0: the list has 2 runs"),
        ("run digits-mnist_cnn-r2-mlp", "not in the list; did you mean digits-mnist_cnn-r2-mlp_no_bn-"),
        ("run", "run takes one run, got 0 (none)"),
        ("run 1 2", "run takes one run, got 2 (1, 2)"),
        ("run 1 --fresh", "--fresh makes no sense with run"),
        ("run 1 --workers 2", "--workers computes the runs of a report"),
        ("--workers 0", "argument --workers: '0': expected a whole number, 1 or more"),
        ("--workers 2 --ray auto", "--workers and --ray both say who computes the runs: give one of them"),
        ("--workers 2 --list", "it goes with no other command, --from or --list"),
        ("--ray auto", "--ray needs Ray, which is not installed: pip install -e '.[cluster]', or use --workers N"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(root, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("labreport.workers.ray_cluster.find_spec", lambda name: None)
    assert main([*arguments.split(), "--profile", "tiny"], root) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not stored_runs(root)


# ---- Ray ----------------------------------------------------------------------------------------------------

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install -e '.[cluster]'")


def with_ray(code: str, folder: Path) -> None:
    """In a process of its own, since Ray leaves threads and processes behind in the one that used it."""
    code = f"import io, pathlib, pytest\nfrom test_pool import *\nfolder = pathlib.Path({str(folder)!r})\n{code}"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_ray
@pytest.mark.slow
def test_runs_by_ray_equal_those_one_after_the_other_even_if_a_worker_is_killed(tmp_path, patch_workers, monkeypatch):
    patch_workers(DIES_ONCE)
    monkeypatch.setenv("PATCHED", os.environ["PYTHONPATH"])  # for tasks alone: Ray's own processes would start slowly
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"].partition(os.pathsep)[2])
    with_ray(
        """
from labreport.workers import ray_cluster
from labreport.workers.ray_cluster import RayCluster
environment = processes.worker_environment()
ray_cluster.worker_environment = lambda: environment | {"PYTHONPATH": os.environ["PATCHED"]}
cluster = RayCluster("local", "cpu", folder / "store")
check_all_kinds_of_ends(cluster, io.StringIO(), load_dataset("digits"), folder)
assert not list((folder / "store").glob(".pool-*"))
""",
        tmp_path,
    )


@needs_ray
@pytest.mark.slow
def test_ray_says_what_is_missing_before_anything_is_computed(tmp_path):
    with_ray(
        """
from labreport.workers.ray_cluster import RayCluster
with pytest.raises(UserError, match="--ray local: the runs need a GPU each and the cluster has none"):
    RayCluster("local", "cuda", folder)
with pytest.raises(UserError, match="--ray 127.0.0.1:1: nothing answers there; start a cluster with `ray start"):
    RayCluster("127.0.0.1:1", "cpu", folder)
with pytest.raises(UserError, match="--ray ray://head:10001: expected auto or HOST:PORT"):
    RayCluster("ray://head:10001", "cpu", folder)
Path.touch = lambda path: None  # what is written here is not seen there
with pytest.raises(UserError, match=f"does not see the run store {folder}: put it on a file system"):
    RayCluster("local", "cpu", folder)
""",
        tmp_path,
    )
