"""Does the interpreter that runs this file have everything pyproject.toml asks for? `python environment.py [extra …]`

Exit status 0 if so; else 1, and a line on stderr saying what is missing. `python environment.py --locked` asks, without
a word, whether it has the very versions of requirements.lock. Run as a file, by run_all.sh, in environments
that may have nothing installed: the standard library only, and `packaging`, which comes with pytest and Jupyter.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
LOCK = PYPROJECT.with_name("requirements.lock")
NAMED = 3  # differences named in an error; the report names all


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


def unlocked(lock: str) -> list[str]:
    """Packages installed here in another version than a lock file's text has for this platform, or not at all."""
    from packaging.requirements import Requirement

    differing = []
    for requirement in (Requirement(line) for line in lock.splitlines() if line.strip() and line[0] != "#"):
        if requirement.marker and not requirement.marker.evaluate():
            continue
        locked = str(requirement.specifier).removeprefix("==")
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            differing.append(f"{requirement.name} missing (locked {locked})")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            differing.append(f"{requirement.name} {installed} (locked {locked})")
    return differing


def read_lock() -> str:
    """The lock file's text; "" where there is none (the package installed without its checkout)."""
    return LOCK.read_text(encoding="utf-8") if LOCK.is_file() else ""


def check_locked(lock: str) -> str:
    """What is wrong, in a line, with using this environment under --locked; "" if nothing is."""
    if not lock:
        return "--locked: there is no requirements.lock here"
    differing = unlocked(lock)
    if not differing:
        return ""
    more = f" and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
    return (f"--locked: this environment ({sys.prefix}) is not that of requirements.lock: "
            f"{', '.join(differing[:NAMED])}{more}; deactivate it, and one is made in .venv")  # fmt: skip


def main(extras: list[str]) -> int:
    if extras == ["--locked"]:
        return int(bool(check_locked(read_lock())))
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
