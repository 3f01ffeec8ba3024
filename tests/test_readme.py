"""README's commands are commands: every one parses, and names notebooks and parameters that exist."""

import re
import shlex
from pathlib import Path

import pytest

from labreport.cli import parse
from labreport.profiles import choose_parameters, load_profile, select_notebooks
from labreport.project import Project

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted({line.split("#")[0].strip() for block in re.findall(r"```\n(.*?)```", README, re.S)
                   for line in block.splitlines() if line.startswith("./run_all.sh")})  # fmt: skip


def test_readme_shows_the_two_commands_first():
    assert README.index("./run_all.sh ") < README.index("./run_all.sh test") < README.index("## ")


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command):
    words = shlex.split(command)[1:]
    if words[:1] == ["test"] or words == ["--help"]:
        return  # the rest goes to pytest
    options = parse(words)
    project = Project(ROOT)
    profile = load_profile(project, options.profile or "quick")
    names = select_notebooks(project, profile, options.only)
    choose_parameters(project, profile.sections, names, {}, options.settings)


def test_files_that_readme_names_exist():
    for name in re.findall(r"\]\(((?!https?:)[^)]+)\)", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"^(\w[\w/.]*?)/? {2,}\S", README, re.M):
        assert (ROOT / name).exists(), name


def test_numbers_are_those_of_the_reference_report():
    from labreport.readme import REFERENCE, blocks, with_blocks

    if not (REFERENCE / "results.json").is_file():
        pytest.skip("no reference report yet")
    assert with_blocks(README, blocks(REFERENCE)) == README, "run: python -m labreport.readme"


def test_a_missing_block_is_named():
    from labreport.readme import with_blocks

    with pytest.raises(ValueError, match="0 blocks 'results'"):
        with_blocks("no markers", {"results": "| a |"})
    assert with_blocks("<!-- a:start -->\nold\n<!-- a:end -->", {"a": "new"}) == "<!-- a:start -->\nnew\n<!-- a:end -->"
