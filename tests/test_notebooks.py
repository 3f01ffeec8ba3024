"""The notebooks' own hygiene, and that nbval would catch a changed number."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from labreport.parameters import has_tag, notebook_defaults

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REFERENCES = ROOT / "tests/reference"
LONGEST_CELL = 18  # lines; STYLE: a longer one wants a function in the core or in labreport

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@every_notebook
def test_notebook_is_stored_without_outputs_or_counters(path):
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(path))


@every_notebook
def test_notebook_can_be_run_by_papermill(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3" and notebook.metadata.language_info.name == "python"
    assert sum(has_tag(cell, "parameters") for cell in notebook.cells) == 1
    assert notebook_defaults(path)  # literals only, or this raises


@every_notebook
def test_every_parameter_is_explained_with_its_type(path):
    (cell,) = [cell for cell in code_cells(path) if has_tag(cell, "parameters")]
    for line in cell.source.splitlines():
        assert re.search(r"  # type: (str|int|float|list|bool), \S", line), line


@every_notebook
def test_notebook_holds_no_method(path):
    """No definition, no long cell (but for the list of parameters), no training loop: those belong to the packages."""
    for cell in code_cells(path):
        assert has_tag(cell, "parameters") or len(cell.source.splitlines()) <= LONGEST_CELL, cell.source
        banned = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.While)
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, banned)], cell.source


@every_notebook
def test_text_names_no_measured_accuracy(path):
    """A percentage in Markdown may describe a setting (crop area, an interval), never a result: none has a decimal."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"\d+\.\d+\s?%", cell.source), cell.source


@every_notebook
def test_nbval_s_marker_stands_on_a_line_of_its_own(path):
    """Behind code on the same line nbval does not see it, and the cell goes unchecked."""
    marked = [line for cell in code_cells(path) for line in cell.source.splitlines() if "NBVAL" in line]
    assert marked and all(line == "# NBVAL_CHECK_OUTPUT" for line in marked)


@every_notebook
def test_text_refers_to_what_the_notebook_itself_shows(path):
    """A report of this notebook alone has no other figures and tables."""
    text = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    code = "".join(cell.source for cell in code_cells(path))
    assert {label for source in text for label in re.findall(r"@((?:fig|tbl)-[\w-]+)", source)} <= set(
        re.findall(r'"((?:fig|tbl)-[\w-]+)"', code)
    )


@every_notebook
def test_notebook_opens_with_title_and_question(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ") and "**Question.**" in first.source


def test_profiles_name_known_notebooks_and_parameters_only():
    names = {path.stem for path in NOTEBOOKS}
    for profile in sorted((ROOT / "notebooks/profiles").glob("*.yaml")):
        sections = yaml.safe_load(profile.read_text())
        sections.pop("report")
        assert sections.keys() <= names, profile
        for name, values in sections.items():
            assert values.keys() <= notebook_defaults(ROOT / f"notebooks/{name}.ipynb").keys(), (profile, name)


def test_cell_ids_are_unique_and_stable():
    for path in NOTEBOOKS:
        ids = [cell.id for cell in nbformat.read(path, as_version=4).cells]
        assert len(set(ids)) == len(ids)


def test_clustering_shares_the_runs_of_the_mnist_study():
    """05 asks for the same pre-training runs as 01, so nothing is trained twice."""
    from labreport.run.plan import plan_runs

    plans = {
        name: {run.name for run in plan_runs(ROOT / f"notebooks/{name}.ipynb", {}, Path("no-store"))}
        for name in ("01_mnist_study", "05_clustering_baseline")
    }
    own = {name for name in plans["05_clustering_baseline"] if "pixels" in name}
    assert len(own) == 1 and plans["05_clustering_baseline"] - own <= plans["01_mnist_study"]


@pytest.mark.skipif(not REFERENCES.is_dir(), reason="no references yet: ./run_all.sh update-references")
class TestReferences:
    def test_every_notebook_has_a_reference_with_the_same_code(self):
        assert {path.name for path in REFERENCES.glob("*.ipynb")} == {path.name for path in NOTEBOOKS}
        for path in NOTEBOOKS:
            reference = code_cells(REFERENCES / path.name)
            assert [cell.source for cell in reference] == [cell.source for cell in code_cells(path)], path.stem

    def test_checked_cells_have_outputs(self):
        """nbval passes a notebook without outputs, so an empty reference would check nothing."""
        for path in NOTEBOOKS:
            checked = [cell for cell in code_cells(REFERENCES / path.name) if "NBVAL_CHECK_OUTPUT" in cell.source]
            assert checked and all(cell.outputs for cell in checked), path.stem

    @pytest.mark.slow
    def test_nbval_catches_a_changed_number(self, tmp_path):
        """The reference of 99_summary with one digit changed must fail, and unchanged must pass."""
        original = REFERENCES / "99_summary.ipynb"
        notebook = nbformat.read(original, as_version=4)
        (cell,) = [cell for cell in notebook.cells if "NBVAL_CHECK_OUTPUT" in cell.source]
        text = cell.outputs[0].text
        digit = re.search(r"\d", text).group()
        cell.outputs[0].text = text.replace(digit, str((int(digit) + 1) % 10), 1)
        nbformat.write(notebook, tmp_path / "changed.ipynb")
        nbformat.write(nbformat.read(original, as_version=4), tmp_path / "same.ipynb")
        environment = {**os.environ, "LABREPORT_OUTPUT": str(tmp_path / "empty"), "LABREPORT_PROGRESS": os.devnull}
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        for name, status in (("same", 0), ("changed", 1)):
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax",
                       "--nbval-current-env", f"{name}.ipynb"]  # fmt: skip
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == status, done.stdout


def test_every_figure_and_table_label_is_unique_over_the_report():
    labels = [
        label
        for path in NOTEBOOKS
        for cell in code_cells(path)
        for label in re.findall(r"\"((?:fig|tbl)-[a-z0-9-]+)\",\s", cell.source)
        if "show_" in cell.source
    ]
    assert labels and len(labels) == len(set(labels)), sorted(label for label in labels if labels.count(label) > 1)
