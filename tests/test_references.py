"""nbval's references, and the test command."""

import subprocess

import nbformat
import pytest
from toy_project import PARAMETERS, make_project, write_notebook

from labreport.project import Project
from labreport.run.progress import Reporter
from labreport.tools.references import moved_texts, run_tests, update_references
from simclr_core.errors import UserError


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(make_project(tmp_path, ["01_first"]))


def show(project, code):
    cells = ("parameters", PARAMETERS), ("", f"# NBVAL_CHECK_OUTPUT\n{code}")
    write_notebook(project.notebook("01_first"), *cells)


def reference(project):
    return nbformat.read(project.root / "tests/reference/01_first.ipynb", 4)


def test_references_are_clean_and_moved_numbers_are_listed_and_nbval_catches_them(project, capsys):
    show(project, "print('accuracy 0.912 of 300')")
    assert update_references(project, Reporter()) == 0
    assert "01_first\n  new\n" in capsys.readouterr().out
    made = reference(project)
    assert made.cells[1].outputs[0].text == "accuracy 0.912 of 300\n"
    assert "papermill" not in made.metadata
    assert not {"papermill", "execution"} & made.cells[1].metadata.keys()
    assert run_tests(project, ["-q", "-p", "no:cacheprovider"]) == 0

    path = project.root / "tests/reference/01_first.ipynb"
    nbformat.write(made, path)
    path.write_text(path.read_text().replace('accuracy 0.912 of 300\\n"', 'accuracy 0.913 of 300\\n"'))
    assert run_tests(project, ["-q", "-p", "no:cacheprovider"]) == 1

    show(project, "print('accuracy 0.915 of 300')")
    update_references(project, Reporter())
    assert "  cell 2: 0.913 -> 0.915 in accuracy 0.915 of 300" in capsys.readouterr().out


def test_pictures_are_left_out_and_their_words_are_kept(project):
    show(project, "from IPython.display import display\n"
                  "display({'image/png': 'iVBORw0KGgo=', 'text/plain': 'fig-loss: it falls'}, raw=True)")  # fmt: skip
    assert update_references(project, Reporter()) == 0
    assert reference(project).cells[1].outputs[0].data == {"text/plain": "fig-loss: it falls"}


def test_no_reference_changes_when_a_notebook_fails(project):
    show(project, "1 / 0")
    with pytest.raises(UserError, match="01_first failed, no reference was changed: ZeroDivisionError"):
        update_references(project, Reporter())
    assert not (project.root / "tests/reference").exists()


def test_changed_words_and_line_counts_are_listed_too():
    def notebook(*texts):
        outputs = [nbformat.v4.new_output("stream", text=text) for text in texts]
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])

    assert list(moved_texts(notebook("it holds\n"), notebook("it does not hold\n"))) == [
        "  cell 1: it holds -> it does not hold"
    ]
    assert list(moved_texts(notebook("a\n"), notebook("a\nb\n"))) == ["  cell 1: 1 lines of output -> 2"]
    assert list(moved_texts(notebook("-1.5e-3 2\n"), notebook("-1.5e-3 3\n"))) == ["  cell 1: 2 -> 3 in -1.5e-3 3"]
    assert list(moved_texts(notebook("a"), notebook("a"))) == []


def test_extra_arguments_reach_pytest_and_a_path_among_them_replaces_the_default(project, monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "call", lambda command, **_: commands.append(command) or 0)
    (project.root / "tests").mkdir()
    (project.root / "tests/test_a.py").touch()
    (project.root / "tests/sanitize.cfg").touch()
    run_tests(project, ["-x", "-k", "loss"])
    run_tests(project, ["tests/test_a.py::test_b"])
    (project.root / "out.xml").touch()
    run_tests(project, ["--junitxml", "out.xml"])
    assert commands[0][-4:] == ["tests", "-x", "-k", "loss"]
    assert commands[1][-2:] == [str(project.root / "tests/sanitize.cfg"), "tests/test_a.py::test_b"]
    assert commands[2][-3:] == ["tests", "--junitxml", "out.xml"]
    assert "--nbval-lax" in commands[0]
