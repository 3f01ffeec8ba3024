"""JupyterLab: the profile's values are seen in the browser, and nothing of them is in the saved file."""

import asyncio
import json

import nbformat
import pytest
from toy_project import make_project

from labreport.parameters import INJECTED
from labreport.tools.lab import FilledInNotebooks

NOTEBOOK = "notebooks/01_first.ipynb"


@pytest.fixture
def contents(tmp_path, monkeypatch):
    make_project(tmp_path)
    monkeypatch.setenv("LABREPORT_PARAMETERS", json.dumps({"01_first": {"epochs": 30, "lr": 0.001, "seeds": [0, 1]}}))
    monkeypatch.setenv("LABREPORT_PROFILE", "quick")
    return FilledInNotebooks(root_dir=str(tmp_path))


def get(contents, path=NOTEBOOK):
    return asyncio.run(contents.get(path))


def test_the_profiles_values_stand_below_the_notebooks_own(contents):
    cells = get(contents)["content"].cells
    assert cells[2].metadata.tags == [INJECTED]
    assert cells[2].source.splitlines() == [
        "# Parameters of profile quick, filled in by ./run_all.sh lab; not saved with the notebook",
        "epochs = 30",
        "lr = 0.001",
        "seeds = [0, 1]",
    ]


def test_saving_after_a_session_leaves_the_file_as_it_was(contents, tmp_path):
    before = (tmp_path / NOTEBOOK).read_bytes()
    model = get(contents)
    notebook = model["content"]
    notebook.metadata["language_info"] = {"name": "python", "version": "3.99"}
    notebook.metadata["widgets"] = {"state": {}}
    for cell in notebook.cells:
        cell.metadata["trusted"] = True
        if cell.cell_type == "code":
            cell.execution_count = 4
            cell.outputs = [nbformat.v4.new_output("stream", text="/home/someone")]
            cell.metadata["execution"] = {"iopub.execute_input": "2026"}
            cell.metadata["scrolled"] = True
    asyncio.run(contents.save({"type": "notebook", "format": "json", "content": notebook}, NOTEBOOK))
    assert (tmp_path / NOTEBOOK).read_bytes() == before


def test_an_edit_is_saved(contents, tmp_path):
    model = get(contents)
    model["content"].cells[0].source = "# Another title"
    asyncio.run(contents.save(model, NOTEBOOK))
    saved = nbformat.read(tmp_path / NOTEBOOK, 4)
    assert saved.cells[0].source == "# Another title"
    assert len(saved.cells) == 3


def test_a_notebook_elsewhere_is_opened_and_saved_as_it_is(contents, tmp_path):
    contents.root_dir = str(tmp_path)
    (tmp_path / "mine.ipynb").write_bytes((tmp_path / NOTEBOOK).read_bytes())
    model = get(contents, "mine.ipynb")
    assert len(model["content"].cells) == 3
    model["content"].cells[1].outputs = [nbformat.v4.new_output("stream", text="kept")]
    asyncio.run(contents.save(model, "mine.ipynb"))
    assert nbformat.read(tmp_path / "mine.ipynb", 4).cells[1].outputs[0].text == "kept"
