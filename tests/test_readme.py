"""README and docs: numbers, commands, code and links are what the repository has."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from labreport.cli import parse
from labreport.project import Project
from labreport.run.profiles import choose_parameters, load_profile, select_notebooks
from labreport.tools.readme import REFERENCE, blocks, with_blocks
from simclr_core.errors import UserError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}


def commands(text: str) -> list[str]:
    """What stands in its blocks of commands, without comments."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M)
    lines = "\n".join(block for language, block in fenced if not language).splitlines()
    found = (line.split("#")[0].strip() for line in lines)
    return [line for line in found if re.match(r"\./run_all\.sh|python -m", line)]


PRINTED = commands(README) + commands(PAGES[Path("docs/running.md")])

# Those that a test here runs; and where the others are run, as they stand or with smaller values.
RUN = ("./run_all.sh --help", "./run_all.sh --list", "python -m labreport.store --help")
ELSEWHERE = {
    "./run_all.sh": ".ci/run: quick with few epochs, or smoke; tests/test_run_all.py: smoke",
    "./run_all.sh --only 05,99": "tests/test_cli.py: --only",
    "./run_all.sh --seeds 0,1,2": "tests/test_cli.py: --seeds",
    "./run_all.sh --profile full": "nowhere: it needs a GPU; its options and parameters are checked below",
    "./run_all.sh --from reports/reference-quick": ".ci/run",
    "./run_all.sh lab": "tests/test_lab.py",
    "./run_all.sh test": ".ci/run",
    "./run_all.sh --profile smoke": ".ci/run, tests/test_run_all.py",
    "./run_all.sh --only 06,07,08,09,10,99": "tests/test_cli.py: --only",
    "./run_all.sh --set 01_mnist_study.epochs=5": ".ci/run: --set",
    "./run_all.sh --require-real-data": ".ci/run; tests/test_cli.py",
    "./run_all.sh --profile smoke --fresh": "tests/test_cli.py: --fresh",
    "./run_all.sh --profile full --workers 4": "tests/test_pool.py: --workers",
    "./run_all.sh run 7 --profile full": "tests/test_pool.py: run",
    "./run_all.sh --locked": "tests/test_run_all.py, tests/test_cli.py",
    "./run_all.sh update-references": "tests/test_references.py",
    "./run_all.sh adopt": "nowhere yet: no test of adopt",
    "./run_all.sh compare reports/reference-quick reports/quick": "tests/test_compare.py",
    "python -m labreport.tools.curves runs/*-strong-*": ".ci/run",
}


def test_each_printed_command_is_run_by_a_test_or_known_to_run_elsewhere_and_printed_once():
    assert sorted(PRINTED) == sorted([*RUN, *ELSEWHERE])


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_a_cheap_command_runs_as_it_stands(command):
    if "--list" in command and not os.environ.get("SIMCLR_DATA"):
        pytest.skip("--list would download the data sets: set SIMCLR_DATA")
    bin_folder = Path(sys.executable).parent
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(bin_folder.parent)}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'reports'}"
    done = subprocess.run(shlex.split(command), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize(
    "command",
    dict.fromkeys(c for text in PAGES.values() for c in commands(text) if c.startswith("./run_all.sh")),
)
def test_a_command_names_options_notebooks_and_parameters_that_exist(command):
    words = shlex.split(re.split(r"\d*[<>|;]", command)[0])[1:]
    if words[:1] == ["test"] or words == ["--help"]:
        return  # the rest goes to pytest
    options, project = parse(words), Project(ROOT)
    profile = load_profile(project, options.profile or "quick")
    names = select_notebooks(project, profile, options.only)
    choose_parameters(project, profile.sections, names, {}, options.settings)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_and_headings_that_exist(page):
    for link in re.findall(r"\]\(((?!https?:)[^)]+)\)", PAGES[page]):
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        titles = re.findall(r"^#+ (.*)", target.read_text(), re.M) if heading else []
        assert not heading or heading in [re.sub(r"[^\w-]", "", t.lower().replace(" ", "-")) for t in titles], link


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_test_files_that_a_page_names_exist(page):
    for name in re.findall(r"\b(?:tests/)?((?:science/)?test_\w+\.py)", PAGES[page]):
        assert (ROOT / "tests" / name).is_file() or (ROOT / "tests/science" / name).is_file(), name


def test_readme_is_short_and_its_first_command_makes_the_report():
    assert len(README.splitlines()) <= 120
    assert commands(README)[0] == "./run_all.sh"


def test_where_to_start_names_what_is_defined_in_the_file_it_links():
    start = README.partition("## Where to start reading")[2].partition("\n## ")[0]
    rows = re.findall(r"\]\((\S+\.py)\), (.*?) \|", start)
    assert len(rows) == 5
    for name, defined in rows:
        tree = ast.parse((ROOT / name).read_text())
        known = {node.name for node in ast.walk(tree) if hasattr(node, "name")}
        known |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert set(re.findall(r"`(\w+)`", defined)) <= known, name


def test_the_ten_lines_are_those_of_the_file():
    """tests/test_wiring.py runs them."""
    (code,) = re.findall(r"<!-- ten-lines:start -->\n```python\n(.*?)```\n<!-- ten-lines:end", README, re.S)
    assert code == (ROOT / "docs/ten_lines.py").read_text()


def test_own_parts_of_the_library_page_are_trained_and_stored(tmp_path):
    text = PAGES[Path("docs/library.md")]
    (code,) = re.findall(r"<!-- own-parts:start -->\n```python\n(.*?)```\n<!-- own-parts:end", text, re.S)
    (tmp_path / "mine.py").write_text(code)
    done = subprocess.run([sys.executable, "-W", "error", "mine.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.glob("runs/digits-*/encoder.safetensors"))) == 1


def test_the_headline_is_that_of_the_reference_report():
    if not (REFERENCE / "results.json").is_file():
        pytest.skip("no reference report yet")
    assert with_blocks(README, blocks(REFERENCE)) == README, "run: python -m labreport.tools.readme"


def _report(monkeypatch, **changes):
    measures = {
        key: {"values": {0: 0.5, 1: 0.6, 2: 0.7}}
        for key in ("mnist.random.hidden.1part", "mnist.r2.hidden.1part", "mnist.supervised.1part",
                    "cifar.aug.random.linear", "cifar.aug.strong.linear",
                    "cifar.aug.supervised.whole_network")
    }  # fmt: skip
    measures |= changes.pop("measures", {})
    notebook = {"measures": {k: v for k, v in measures.items() if v}, "reduced": "8 epochs",
                "data": [{"train": 60_000}], "parameters": {"parts": 10}}  # fmt: skip
    content = {"finished": True, "profile": "quick", "provenance": {"commit": "f" * 40},
               "notebooks": {"01": notebook}, **changes}  # fmt: skip
    monkeypatch.setattr("labreport.tools.readme.read_report_results", lambda path: content)


def test_a_headline_has_means_their_t_intervals_and_n(monkeypatch):
    one = {"cifar.aug.random.linear": {"values": {0: 0.25}}}
    _report(monkeypatch, measures=one)
    _, _, mnist, cifar, *_ = blocks(Path("made"))["headline"].splitlines()
    assert "cut down (8 epochs)" in mnist and "6,000 labels" in mnist
    assert mnist.endswith(" 60.0 (35.2 to 84.8) | 3 |")  # 0.1 sd, t = 4.303
    assert "| 25.0 | 60.0 (35.2 to 84.8) |" in cifar and cifar.endswith("| 1, 3 |")


def test_a_report_that_is_unfinished_or_lacks_a_number_gives_no_headline(monkeypatch):
    _report(monkeypatch, finished=False)
    with pytest.raises(UserError, match="was not finished"):
        blocks(Path("made"))
    _report(monkeypatch, measures={"mnist.supervised.1part": None})
    with pytest.raises(UserError, match="made lacks mnist.supervised.1part"):
        blocks(Path("made"))


def test_a_missing_block_is_named():
    with pytest.raises(ValueError, match="0 blocks 'headline'"):
        with_blocks("no markers", {"headline": "| a |"})
    text = "<!-- a:start -->\nold\n<!-- a:end -->"
    assert with_blocks(text, {"a": "new"}) == text.replace("old", "new")
