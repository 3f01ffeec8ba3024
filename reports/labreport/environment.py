"""Does the interpreter that runs this file have everything pyproject.toml asks for? `python environment.py [extra …]`

Exit status 0 if so; else 1, and a line on stderr saying what is missing. Run as a file, by run_all.sh, in environments
that may have nothing installed: the standard library only, and `packaging`, which comes with pytest and Jupyter.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def missing(project: dict, extras: list[str]) -> list[str]:
    """Requirements of pyproject's [project] table, with those extras, that are not met here."""
    if sys.version_info[:2] < tuple(map(int, project["requires-python"].removeprefix(">=").split("."))):
        return [f"Python {project['requires-python']}"]
    from packaging.requirements import Requirement

    wanted = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    lacking = []
    for requirement in map(Requirement, wanted):
        try:
            met = requirement.specifier.contains(version(requirement.name), prereleases=True)
        except PackageNotFoundError:
            met = False
        if not met:
            lacking.append(str(requirement))
    return lacking


def main(extras: list[str]) -> int:
    try:
        import tomllib

        lacking = missing(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"], extras)
    except ModuleNotFoundError as error:  # an old Python has no tomllib, an empty environment no packaging
        lacking = [error.name or "Python 3.11"]
    if lacking:
        print(f"the active environment lacks {', '.join(lacking)}: it is left alone", file=sys.stderr)
    return int(bool(lacking))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
