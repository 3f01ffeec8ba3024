"""run_all.sh: the environment it makes or uses, and the whole way end to end in an empty folder."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = '#!/bin/sh\ncase "$*" in *environment.py*) exit {status};; "-c "*) exit {check};; *) echo "python $*";; esac\n'
UV = (
    '#!/bin/sh\necho "uv $*" >>"$CALLS"\nif [ "$1" = venv ]; then mkdir -p .venv/bin; cp "$FAKE" .venv/bin/python; fi\n'
)


@pytest.fixture
def checkout(tmp_path):
    """A folder with run_all.sh, and programs/ as the only place (beside the system's own) where programs are found."""
    (tmp_path / "programs").mkdir()
    for name in ("run_all.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("bash", "readlink", "cat", "cksum", "tail", "grep", "flock", "mkdir", "cp", "rm"):
        (tmp_path / "programs" / name).symlink_to(shutil.which(name))
    program(tmp_path / "python-of-venv", PYTHON.format(status=1, check=0))
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def call(checkout, *arguments, **environment):
    variables = {
        "PATH": str(checkout / "programs"),
        "CALLS": str(checkout / "calls"),
        "FAKE": str(checkout / "python-of-venv"),
        **environment,
    }
    command = [str(checkout / "run_all.sh"), *arguments]
    return subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True, timeout=60)


def calls(checkout) -> list[str]:
    path = checkout / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_uv_makes_the_environment_once_and_again_when_the_dependencies_change(checkout):
    program(checkout / "programs/uv", UV)
    done = call(checkout, "--profile", "smoke")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "python -P -m labreport --profile smoke"
    assert [line.split()[1] for line in calls(checkout)] == ["venv", "pip"]
    assert call(checkout, "--list").stdout == "python -P -m labreport --list\n"
    assert calls(checkout) == []
    (checkout / "requirements.lock").write_text("torch==2.9.0\n")
    call(checkout)
    (install,) = calls(checkout)
    assert f"--constraint {checkout}/requirements.lock --editable {checkout}[test]" in install


def test_two_calls_at_once_make_the_environment_once(checkout):
    program(checkout / "programs/uv", UV.replace("\n", "\nsleep 1\n", 1))
    (checkout / "programs/sleep").symlink_to(shutil.which("sleep"))
    with ThreadPoolExecutor() as pool:
        for done in pool.map(lambda _: call(checkout, "--list"), range(2)):
            assert done.stdout.splitlines()[-1] == "python -P -m labreport --list", done.stderr
    assert [line.split()[1] for line in calls(checkout)] == ["venv", "pip"]


def test_without_uv_the_systems_python_makes_it(checkout):
    make = '#!/bin/sh\ncase "$*" in "-m venv"*) mkdir -p "$3/bin"; cp "$FAKE" "$3/bin/python";; "-c "*) exit 0;; esac\n'
    program(checkout / "programs/python3", make)
    done = call(checkout, "--list")
    assert done.stdout.splitlines()[-1] == "python -P -m labreport --list"
    assert "python -m pip install" in (checkout / ".run_all.log").read_text()


def test_an_active_environment_with_the_dependencies_is_used_as_it_is(checkout):
    program(checkout / "active/bin/python", PYTHON.format(status=0, check=0))
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        done = call(checkout, "--list", **{variable: str(checkout / "active")})
        assert done.stdout == "python -P -m labreport --list\n"
    assert not (checkout / ".venv").exists()


def test_an_active_environment_without_them_is_left_alone(checkout):
    program(checkout / "programs/uv", UV)
    program(checkout / "active/bin/python", PYTHON.format(status=1, check=0).replace("python $*", "the wrong one"))
    done = call(checkout, "--list", VIRTUAL_ENV=str(checkout / "active"))
    assert done.stdout.splitlines()[-1] == "python -P -m labreport --list"
    assert "pip install" in calls(checkout)[1]


def test_missing_python_old_python_and_no_network_get_one_line(checkout):
    def error():
        done = call(checkout, "--list")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "python3 is missing or older than 3.11" in error()
    program(checkout / "programs/python3", '#!/bin/sh\ncase "$*" in *version_info*) exit 1;; esac\n')
    assert "python3 is missing or older than 3.11" in error()
    program(checkout / "programs/python3", '#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\n')
    assert "no venv module" in error()
    program(checkout / "programs/uv", UV.replace("echo", '[ "$1" = pip ] && echo "no route to host" && exit 1\necho'))
    assert "the packages cannot be installed (no network? no room?)" in error()
    assert "no route to host" in error()
    assert not (checkout / ".venv/run_all.stamp").exists()


def test_locked_installs_the_lock_and_again_when_versions_have_moved_since(checkout):
    """In the stand-in for .venv's python, `environment.py --locked` fails while the file `moved` is there."""
    moved = checkout / "moved"
    program(checkout / "python-of-venv", f'#!/bin/sh\ncase "$*" in *environment.py*--locked*) [ ! -e {moved} ]; exit;; '
            '*environment.py*) exit 1;; esac\necho "python $*"\n')  # fmt: skip
    program(checkout / "programs/uv", UV)
    (checkout / "requirements.lock").write_text("torch==2.9.0\n")
    assert call(checkout, "--locked").stdout.splitlines()[-1] == "python -P -m labreport --locked"
    _, install = calls(checkout)
    lock = checkout / "requirements.lock"
    assert f"--constraint {lock} --requirement {lock} --editable {checkout}[test]" in install
    call(checkout, "--locked")
    assert calls(checkout) == []
    moved.touch()
    call(checkout)
    assert calls(checkout) == []  # it has what is needed: left as it is
    call(checkout, "--locked")
    assert "--requirement" in calls(checkout)[-1]


def test_locked_leaves_an_active_environment_to_the_check_of_its_versions(checkout):
    program(checkout / "active/bin/python", PYTHON.format(status=0, check=0))
    done = call(checkout, "--locked", VIRTUAL_ENV=str(checkout / "active"))
    assert done.stdout == "python -P -m labreport --locked\n"
    assert not (checkout / ".venv").exists()


def test_it_finds_its_checkout_through_links_with_cdpath_set_and_by_a_relative_path(checkout):
    odd = checkout / "it's \"so\" $(false) é"
    odd.mkdir()
    for name in ("run_all.sh", "pyproject.toml"):
        shutil.move(checkout / name, odd)
    path = '#!/bin/sh\ncase "$*" in *environment.py*) exit 0;; *) echo "$PYTHONPATH";; esac\n'
    program(checkout / "active/bin/python", path)
    (checkout / "elsewhere").mkdir()
    (checkout / "elsewhere/link").symlink_to(odd / "run_all.sh")
    environment = {"PATH": str(checkout / "programs"), "VIRTUAL_ENV": str(checkout / "active"),
                   "CDPATH": f"{checkout}:/"}  # fmt: skip
    for command in (["elsewhere/link"], [f"{odd.name}/run_all.sh"], ["bash", f"{odd.name}/run_all.sh"]):
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
        assert done.stdout == f"{odd}:{odd}/reports\n", done.stderr


def test_a_colon_in_its_path_is_told_in_a_line(checkout):
    (checkout / "a:b").mkdir()
    shutil.copy(checkout / "run_all.sh", checkout / "a:b")
    done = call(checkout / "a:b", PATH=str(checkout / "programs"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {checkout}/a:b has a colon in it") and done.stderr.count("\n") == 1


def test_what_lies_in_the_current_folder_is_not_imported_and_closed_outputs_do_no_harm(tmp_path):
    (tmp_path / "simclr_core").mkdir()
    (tmp_path / "simclr_core/__init__.py").write_text("raise SystemExit('of another checkout')")
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    for closed, status in ((">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("--oops >&- 2>&-", 2)):
        command = f'"$0" compare "$1" "$1" {closed}'
        arguments = [str(ROOT / "run_all.sh"), str(ROOT / "reports/reference-quick")]
        done = subprocess.run(["bash", "-c", command, *arguments], cwd=tmp_path, env=environment,
                              capture_output=True, text=True)  # fmt: skip
        assert (done.returncode, done.stderr) == (status, ""), closed


def test_a_reader_that_goes_away_is_told_in_a_line(tmp_path):
    command = f"{shlex.quote(str(ROOT / 'run_all.sh'))} compare $0 $0 | :; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    done = subprocess.run(["bash", "-c", command, str(ROOT / "reports/reference-quick")], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: nobody reads the output any more: stopped; what is finished is kept\n"


def test_help_needs_no_environment(checkout):
    for folder in ("reports/labreport", "simclr_core"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__", "fonts"))
    (checkout / "programs/python3").symlink_to(sys.executable)
    done = call(checkout, "--help")
    assert "--require-real-data" in done.stdout, done.stderr
    assert not (checkout / ".venv").exists()


def test_what_pyproject_asks_for_is_looked_up_with_versions_and_extras():
    from labreport.environment import missing

    project = {"requires-python": ">=3.11", "dependencies": ["pytest>=1", "pytest<1", "no-such-package"],
               "optional-dependencies": {"test": ["also-not-there"]}}  # fmt: skip
    assert missing(project, []) == ["pytest<1", "no-such-package"]
    assert missing(project, ["test"])[-1] == "also-not-there"
    assert missing({**project, "requires-python": ">=3.99"}, []) == ["Python >=3.99"]


# ---- end to end -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not list((ROOT / "notebooks").glob("99_*.ipynb")), reason="there are no notebooks yet")
def test_smoke_end_to_end_in_an_empty_folder_and_a_second_time_without_training(tmp_path):
    clone = tmp_path / "clone"
    left_out = ("data", "runs", "quick", "full", "smoke", "reference", ".*", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*left_out))
    hidden = ("SIMCLR_DATA", "SIMCLR_RUNS", "SIMCLR_CACHE", "LABREPORT_OUTPUT", "LABREPORT_PROGRESS", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}

    def run(*arguments):
        command = [str(clone / "run_all.sh"), "--profile", "smoke", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env={**environment, "VIRTUAL_ENV": sys.prefix},
                              capture_output=True, text=True, timeout=900)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    first = run()
    report = clone / "reports" / "smoke"
    *_, page, paper, check = first.splitlines()
    assert [page, paper] == [str(report / "report.html"), str(report / "report.pdf")]
    assert "not a result" in check
    assert (report / "report.html").stat().st_size > 10_000
    assert (report / "report.pdf").read_bytes().startswith(b"%PDF")
    assert list((report / "figures").glob("*.pdf"))
    assert list((report / "tables").glob("*.csv"))
    content = json.loads((report / "results.json").read_text())
    assert content["notebooks"]["01_mnist_study"]["measures"]
    assert not list(report.rglob("*.unfinished.ipynb")) and not list(report.rglob("*.tmp"))

    trained = {path: path.stat().st_mtime_ns for path in (clone / "runs").rglob("*") if path.is_file()}
    before = (report / "results.json").read_bytes()
    second = run()
    assert second.count("unchanged, executed before") == len(list((clone / "notebooks").glob("[0-9][0-9]_*.ipynb")))
    assert {path: path.stat().st_mtime_ns for path in (clone / "runs").rglob("*") if path.is_file()} == trained
    assert (report / "results.json").read_bytes() == before

    listed = run("--list")
    assert " 0 to train" in listed
