"""The runs notebooks would make, known before anything is trained."""

import os

import pytest
from toy_project import PARAMETERS, PLAN, SETUP, make_project, planned_cells, study_cells, write_notebook

from labreport.run.plan import PlanFailure, epochs_to_keep, list_runs, plan_runs
from labreport.store import pretrain
from simclr_core.config import PretrainConfig
from simclr_core.data import load_dataset
from simclr_core.errors import UserError


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "notebooks" / "01_first.ipynb"
    write_notebook(path, *planned_cells("01_first"))
    return path


def test_there_is_a_run_for_each_seed_with_the_injected_parameters(notebook, tmp_path):
    folder = os.getcwd()
    runs = plan_runs(notebook, {"seeds": [0, 1], "epochs": 1}, tmp_path / "runs")
    assert [(run.config.seed, run.config.epochs, run.stored) for run in runs] == [(0, 1, False), (1, 1, False)]
    assert len({run.name for run in runs}) == 2
    assert os.getcwd() == folder


def test_a_stored_run_is_known_as_stored(notebook, tmp_path):
    pretrain(PretrainConfig("digits", (0, 64), batch_size=32, epochs=1, lr=0.1), load_dataset("digits"), tmp_path)
    runs = plan_runs(notebook, {"seeds": [0, 1], "epochs": 1}, tmp_path)
    assert [run.stored for run in runs] == [True, False]


def test_what_one_notebook_wants_kept_of_a_run_is_kept_whoever_trains_it(tmp_path):
    """The union over notebooks; the last epoch, and later ones, are no kept epochs."""
    runs = []
    for name, keep in (("01_a", "[1]"), ("02_b", "[2, 1]"), ("03_c", "[3, 9]")):
        path = tmp_path / f"{name}.ipynb"
        write_notebook(path, ("parameters", PARAMETERS), ("setup", SETUP), ("plan", f"{PLAN}\nkeep_epochs = {keep}"))
        runs += plan_runs(path, {"epochs": 3}, tmp_path)
    assert len({run.name for run in runs}) == 1
    assert epochs_to_keep(runs) == {runs[0].name: [1, 2]}


def test_a_notebook_without_a_plan_makes_no_runs(tmp_path):
    write_notebook(tmp_path / "n.ipynb", *study_cells("n", "raise SystemError"))
    assert plan_runs(tmp_path / "n.ipynb", {}, tmp_path) == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"epochs": 0}, "01_first: epochs must be at least 1, got 0"), ({"lr": -1.0}, "01_first: lr must be positive"),
     ({"dataset": "mnits"}, "01_first: unknown data set 'mnits'")],
)  # fmt: skip
def test_values_that_no_run_can_be_made_with_are_told_in_one_line(notebook, tmp_path, parameters, message):
    with pytest.raises(UserError, match=message) as caught:
        plan_runs(notebook, parameters, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setup", "message"), [("1 / 0", "ZeroDivisionError"), ("int('x')", "ValueError"), ("x = 1", "no data")]
)
def test_a_fault_in_the_notebooks_own_code_is_no_user_error(tmp_path, setup, message):
    plan = PLAN.replace("PretrainConfig", "dict") if "x =" not in setup else "plan = {}"
    write_notebook(tmp_path / "n.ipynb", ("parameters", PARAMETERS), ("setup", setup), ("plan", plan))
    with pytest.raises(PlanFailure, match=message):
        plan_runs(tmp_path / "n.ipynb", {}, tmp_path)


def test_what_the_cells_print_and_display_is_not_shown(tmp_path, capsys):
    cells = [("parameters", PARAMETERS), ("setup", SETUP + "print('noise')\ndisplay(1)"), ("plan", PLAN)]
    write_notebook(tmp_path / "n.ipynb", *cells)
    plan_runs(tmp_path / "n.ipynb", {}, tmp_path)
    assert capsys.readouterr().out == ""


def test_the_list_counts_a_shared_run_once_and_gives_cost_and_minutes(tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr("labreport.run.cost.estimate_seconds", lambda config, data: timed.append(config) or 90.0)
    monkeypatch.setattr("labreport.run.cost.pretrain_flops", lambda config, data: 2e15)
    make_project(tmp_path)
    for name in ("01_first", "02_second"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", *planned_cells(name))
    notebooks = tmp_path / "notebooks"
    plans = {
        "01_first": plan_runs(notebooks / "01_first.ipynb", {"seeds": [0, 1]}, tmp_path),
        "02_second": plan_runs(notebooks / "02_second.ipynb", {}, tmp_path),
        "03_broken": PlanFailure("NameError: x"),
        "99_summary": [],
    }
    lines = list_runs(plans).splitlines()
    first = plans["02_second"][0].name
    assert [line.split() for line in lines[1:3]] == [
        [str(k), run.name, "to", "train", "2.0000", "PFLOP", "1.5", "min"] for k, run in enumerate(plans["01_first"], 1)
    ]
    assert lines[4].split() == ["1", first, "shared,", "above", "2.0000", "PFLOP"]
    assert lines[6] == "  no plan: NameError: x"
    assert lines[8] == "  no runs of its own"
    assert lines[-1] == "2 runs, 0 stored, 2 to train: 4 PFLOP, about 3 min of pre-training here"
    assert len(timed) == 1
