"""The same code in the same environment gives the same results, to the bit: every notebook twice from nothing."""

import json

import pytest
from same_results import difference, same_results, times, weights

from labreport.cli import ROOT
from labreport.parameters import notebook_defaults
from labreport.project import Project
from labreport.run.progress import Reporter
from labreport.run.runner import Job, execute_notebooks

CUT_DOWN = {"parts": 30, "images": 64, "labels": 64, "batch_size": 32, "batch_sizes": [16, 32], "epochs": 2,
            "probe_epochs": 2, "supervised_epochs": 1, "finetune_epochs": 1, "restarts": 1,
            "components": 8}  # fmt: skip


@pytest.mark.slow
def test_a_cut_down_smoke_profile_gives_the_same_results_to_the_bit_both_times(tmp_path, monkeypatch):
    project = Project(ROOT)
    names = project.notebook_names()
    defaults = {name: notebook_defaults(project.notebook(name)) for name in names}
    parameters = {name: {key: value for key, value in CUT_DOWN.items() if key in defaults[name]} for name in names}
    made = []
    for k in range(2):
        home = tmp_path / str(k)
        monkeypatch.setenv("SIMCLR_CACHE", str(home / "cache"))
        errors = execute_notebooks(Job(project, parameters, home / "report", home / "runs", jobs=2), {}, Reporter())
        assert not any(errors.values()), errors
        made.append(home)
    first, second = (same_results(home / "report/results.json") for home in made)
    assert difference(second["notebooks"], first["notebooks"]) == ""
    assert len(first["notebooks"]) == len(names) - 1
    assert all(notebook["measures"] for notebook in first["notebooks"].values())
    assert weights(made[0] / "runs") == weights(made[1] / "runs")
    clocks = [times(home / "report/results.json") for home in made]
    assert clocks[0].keys() == clocks[1].keys() and clocks[0] != clocks[1]  # they are times, and they are made anew


def test_what_is_compared_is_everything_but_times_and_provenance(tmp_path):
    def entry(value, unit):
        return {"values": {"0": value}, "unit": unit, "what": "a thing", "figure": ""}

    def write(name, accuracy, seconds, commit):
        notebook = {"measures": {"a": entry(accuracy, "fraction"), "t": entry(seconds, "seconds")}, "series": {},
                    "provenance": {"commit": commit}, "runs": ["r"]}  # fmt: skip
        path = tmp_path / f"{name}.json"
        content = {"notebooks": {"05": notebook}, "failed": {}, "provenance": {"commit": commit}}
        path.write_text(json.dumps({**content, "sha256": name}))
        return path

    first = write("first", 0.5, 1.25, "abc")
    assert same_results(first) == same_results(write("slower", 0.5, 2.5, "def"))
    other = same_results(write("other", 0.5000000000000001, 1.25, "abc"))
    assert difference(other, same_results(first)).startswith("/notebooks/05/measures/a/values/0: 0.5000000000000001")
    assert times(first) == {"t": {"0": 1.25}}
