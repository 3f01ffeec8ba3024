"""The command line: every option does what it says, every mistake gets one line and exit status 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy_project import make_project, planned_cells, sealed, study_cells, write_notebook, write_profile

from labreport import session
from labreport.cli import main, parse
from labreport.run import report
from labreport.store import pretrain
from simclr_core.config import PretrainConfig
from simclr_core.data import load_dataset


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A toy checkout; rendering (pandoc and Typst, seconds) leaves two empty files and keeps what it was given."""
    monkeypatch.delenv("SIMCLR_DATA", raising=False)
    monkeypatch.setattr(report, "render", _render)
    return make_project(tmp_path)


def _render(sections, front, output):
    _render.sections, _render.front = sections, front
    for name in ("report.html", "report.pdf"):
        (output / name).touch()
    return output / "report.html", output / "report.pdf"


def parameters_of(root, name) -> dict:
    return json.loads((root / "reports/tiny/results.json").read_text())["notebooks"][name]["parameters"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--profile tinny", "unknown profile 'tinny': did you mean 'tiny'?"),
        ("--profile tiny --only 01,07", "unknown notebook '07'"),
        ("--profile tiny --only 01_frist", "unknown notebook '01_frist': did you mean '01_first'?"),
        ("--profile tiny --set 01_first.epoch=5", "unknown parameter of 01_first 'epoch': did you mean 'epochs'?"),
        ("--profile tiny --set 01_first.epochs=five", "01_first.epochs is 'five', expected a whole number"),
        ("--profile tiny --set 01_first.dataset=mnits", "unknown data set 'mnits'"),
        ("--profile tiny --data /nowhere", "--data: data folder '/nowhere' does not exist"),
        ("--profile tiny --from /nowhere", "--from /nowhere: no such folder"),
        ("--profile tiny --from . --fresh", "neither with --fresh nor with --data"),
        ("--seeds 0,x", "argument --seeds: '0,x': expected whole numbers"),
        ("--jobs 0", "argument --jobs: '0': expected a whole number, 1 or more"),
        ("--device gpu", "argument --device: invalid choice: 'gpu'"),
        ("--profil tiny", "unknown option '--profil': did you mean '--profile'?"),
        ("tset", "unknown command 'tset': did you mean 'test'?"),
        ("--profile tiny -- --no-browser", "arguments after -- are for ./run_all.sh lab only"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2_and_nothing_starts(root, capsys, arguments, message):
    assert main(arguments.split(), root) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (root / "reports").exists()


def test_impossible_values_are_told_before_anything_is_trained(root, capsys):
    write_notebook(root / "notebooks/01_first.ipynb", *planned_cells("01_first"))
    assert main(["--profile", "tiny", "--set", "1.epochs=0"], root) == 2
    assert capsys.readouterr().err == "error: 01_first: epochs must be at least 1, got 0\n"
    assert not (root / "reports/tiny/notebooks").exists()


def test_a_call_runs_notebooks_and_ends_with_table_and_paths(root, capsys):
    assert main(["--profile", "tiny", "--only", "1,99", "--set", "1.epochs=5", "--seeds", "0,1"], root) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "no main result among these notebooks" in lines[-3]
    assert lines[-2:] == [str(root / f"reports/tiny/report.{end}") for end in ("html", "pdf")]
    assert parameters_of(root, "01_first") == {"epochs": 5, "seeds": [0, 1]}
    assert [section.name for section in _render.sections] == ["01_first", "99_summary"]
    assert _render.front.abstract_markdown == "All is well."
    assert _render.front.banner is None
    assert _render.front.facts["Profile"] == "tiny"


def test_smoke_ends_by_saying_that_it_was_a_check_and_no_result(root, capsys):
    write_profile(root, "smoke", "")
    assert main(["--profile", "smoke", "--only", "1"], root) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(
        "This was a check that everything runs, not a result: "
    )


def test_a_failed_notebook_gives_status_1_and_a_report_that_shows_it(root, capsys):
    write_notebook(root / "notebooks/01_first.ipynb", *study_cells("01_first", "raise RuntimeError('out of luck')"))
    assert main(["--profile", "tiny", "--only", "1"], root) == 1
    (section,) = _render.sections
    assert section.error == "RuntimeError: out of luck"
    assert section.path.name == "01_first.failed.ipynb"
    assert "failed: 01_first" in capsys.readouterr().out


@pytest.mark.parametrize("leave", ["raise SystemExit", "import os; os._exit(0)", "exit()"])
def test_a_plan_cell_that_leaves_gives_a_failed_section_and_status_1(leave, root, capsys):
    cells = [(tag, f"{source}\n{leave}" if tag == "plan" else source) for tag, source in planned_cells("01_first")]
    write_notebook(root / "notebooks/01_first.ipynb", *cells)
    assert main(["--profile", "tiny", "--only", "1", "--list"], root) == 1
    assert "no plan: its setup or plan cell leaves the notebook" in capsys.readouterr().out
    assert main(["--profile", "tiny", "--only", "1"], root) == 1
    said = capsys.readouterr().out
    assert "01_first: failed after" in said and said.endswith("failed: 01_first; the report shows where\n")
    assert [section.name for section in _render.sections if section.error] == ["01_first"]
    content = json.loads((root / "reports/tiny/results.json").read_text())
    assert list(content["failed"]) == ["01_first"] and content["finished"]


def test_a_call_that_is_stopped_says_so_in_its_results(root, monkeypatch):
    monkeypatch.setattr(report, "render", lambda *_: 1 / 0)
    assert main(["--profile", "tiny", "--only", "1"], root) == 2
    assert not json.loads((root / "reports/tiny/results.json").read_text())["finished"]


def test_a_dead_kernel_is_named_and_does_not_stop_the_other_notebooks(root, capsys):
    write_notebook(root / "notebooks/01_first.ipynb", *study_cells("01_first", "import os; os._exit(3)"))
    assert main(["--profile", "tiny"], root) == 1
    said = capsys.readouterr().out
    assert "01_first: failed after" in said
    assert "the kernel died in cell 4 of 4, ended with exit status 3: if memory ran out" in said
    assert "02_second: executed" in said and "99_summary: executed" in said
    assert "failed: 01_first;" in said
    assert [bool(section.error) for section in _render.sections] == [True, False, False]


def test_missing_data_are_replaced_or_required(root, capsys, monkeypatch):
    write_profile(root, "real", "report: {stand_ins: {mnist: digits}}\n01_first: {dataset: mnist}\n")
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [])
    monkeypatch.setattr("torchvision.datasets.MNIST.download", _no_network)
    assert main(["--profile", "real", "--require-real-data"], root) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: mnist not found: looked in ")
    assert error.count("\n") == 1
    assert main(["--profile", "real", "--only", "1"], root) == 0
    assert "mnist was not found, digits stands in its place" in capsys.readouterr().out
    assert "mnist was not found" in _render.front.banner


def _no_network(self):
    raise OSError("no network")


def test_the_list_prints_every_run_and_starts_nothing(root, capsys, monkeypatch):
    write_notebook(root / "notebooks/01_first.ipynb", *planned_cells("01_first"))
    assert main(["--profile", "tiny", "--list", "--seeds", "0,1"], root) == 0
    assert "2 runs, 0 stored, 2 to train" in capsys.readouterr().out
    assert not (root / "reports").exists()


def test_fresh_sets_the_stored_runs_aside(root, capsys):
    write_notebook(root / "notebooks/01_first.ipynb", *planned_cells("01_first"))
    config = PretrainConfig("digits", (0, 64), batch_size=32, epochs=2, lr=0.1)
    run = pretrain(config, load_dataset("digits"), root / "runs")
    other = pretrain(PretrainConfig("digits", (0, 32), batch_size=32, epochs=1), load_dataset("digits"), root / "runs")
    assert main(["--profile", "tiny", "--only", "1", "--fresh"], root) == 0
    assert "1 stored runs set aside" in capsys.readouterr().out
    assert (root / "runs/.set-aside-1" / run.name / "provenance.json").is_file()
    assert not run.path.exists()
    assert other.path.exists()


def test_from_takes_parameters_seeds_and_profile_of_the_stored_report(root, capsys, monkeypatch):
    source = root / "elsewhere"
    (source / "runs/some-run").mkdir(parents=True)
    (source / "runs/some-run/config.json").write_text("{}")
    made = {"commit": "abcdef0123456789", "dirty": False, "device": "a GPU", "versions": {"torch": "2"}}
    recorded = {"01_first": {"parameters": {"epochs": 8, "seeds": [3]}}}
    (source / "results.json").write_text(sealed({"notebooks": recorded, "finished": False, "profile": "tiny",
                                                      "provenance": made}))  # fmt: skip
    monkeypatch.setattr(session, "settle_data", lambda *_: pytest.fail("data were read"))
    monkeypatch.chdir(root)
    assert main(["--from", "elsewhere", "--only", "1"], root) == 0
    assert parameters_of(root, "01_first") == {"epochs": 8, "seeds": [3]}
    said = capsys.readouterr().out
    assert f"from the stored runs in {source / 'runs'}: nothing is trained" in said
    assert "the call that made that report was stopped" in said
    assert _render.front.facts["Device"] == "a GPU"
    assert _render.front.facts["Commit"] == "abcdef012345"
    content = (source / "results.json").read_text()
    (source / "results.json").write_text(content.replace(": 8", ": 9"))
    assert main(["--from", "elsewhere"], root) == 2
    assert "results.json is damaged (its checksum does not fit)" in capsys.readouterr().err


def test_the_default_profile_follows_the_device():
    assert session._default_profile("cuda") == "full"
    assert session._default_profile("cpu") == "quick"


def test_notebooks_of_one_cpu_thread_each_run_one_a_core_within_memory(monkeypatch):
    monkeypatch.setattr(session.os, "sched_getaffinity", lambda _: range(4), raising=False)
    gibibytes = {"SC_PAGE_SIZE": 2**30, "SC_PHYS_PAGES": 64}
    monkeypatch.setattr(session.os, "sysconf", gibibytes.__getitem__)
    one, two = {"device": "cpu", "threads": 1}, {"device": "cpu", "threads": 2}
    summary = {"title": "no training here"}
    assert session._notebooks_at_a_time({"a": one, "b": one, "99": summary}) == 4
    assert session._notebooks_at_a_time({"a": one, "b": two}) == 1
    gibibytes["SC_PHYS_PAGES"] = 8
    assert session._notebooks_at_a_time({"a": one}) == 2
    gibibytes["SC_PHYS_PAGES"] = 1
    assert session._notebooks_at_a_time({"a": one}) == 1
    gibibytes["SC_PHYS_PAGES"] = 64
    assert session._notebooks_at_a_time({"a": {"device": "cuda", "threads": 1}}) == 1  # rendered where there is no GPU
    monkeypatch.setattr(session, "_device", lambda asked: "cuda")
    assert session._notebooks_at_a_time({"a": {"device": "auto", "threads": 1}}) == 1


def test_a_fault_of_the_program_is_told_in_a_line_too(root, capsys, monkeypatch):
    monkeypatch.setattr(session, "prepare", lambda *_: 1 / 0)
    assert main(["--profile", "tiny"], root) == 2
    assert capsys.readouterr().err.startswith("error: a fault of this program, ZeroDivisionError: division by zero")


def test_locked_refuses_an_environment_of_other_versions_in_one_line(root, capsys, monkeypatch, tmp_path):
    from importlib.metadata import version

    lock = tmp_path / "requirements.lock"
    monkeypatch.setattr("labreport.environment.LOCK", lock)
    monkeypatch.setattr("labreport.cli._run_tests", lambda _, arguments: len(arguments))
    assert main(["--locked", "--list", "--profile", "tiny"], root) == 2
    assert capsys.readouterr().err == "error: --locked: there is no requirements.lock here\n"
    lock.write_text(f"numpy==0.1\nno-such-package==1.0\npytest=={version('pytest')}\npandas==1.0\n"
                    "torch==1.0\ncolorama==99 ; sys_platform == 'no-such-platform'\n")  # fmt: skip
    for command in (["--locked", "--list", "--profile", "tiny"], ["test", "--locked", "-q"]):
        assert main(command, root) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"numpy {version('numpy')} (locked 0.1), no-such-package missing (locked 1.0), pandas" in error
        assert "torch" not in error and "and 1 more; deactivate it" in error and "pytest 9" not in error
    lock.write_text(f"# made by hand\npytest=={version('pytest')}\n\nnumpy=={version('numpy')}\n")
    assert main(["--locked", "--list", "--profile", "tiny"], root) == 0
    assert main(["test", "--locked", "-q"], root) == 1  # the option is not pytest's


def test_an_interrupt_ends_with_status_130(root, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "prepare", interrupt)
    assert main(["--profile", "tiny"], root) == 130
    assert capsys.readouterr().err.startswith("\nstopped")


def test_help_needs_no_package_and_names_every_option(capsys):
    root = Path(report.__file__).parents[2]
    code = ("import sys; sys.path[:0] = sys.argv[1:]; import labreport.cli; "
            "assert not {'torch', 'yaml', 'papermill', 'numpy'} & set(sys.modules)")  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(root), str(root / "reports")], check=True)
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    options = "profile only set seeds data jobs device fresh from list require-real-data locked help"
    assert all(f"--{option}" in text for option in options.split())
