"""The project's files agree with each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared() -> list[str]:
    return [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]


def bare(requirement: str) -> str:
    return re.split(r"[<>=!~ \[;]", requirement)[0].lower().replace("_", "-")


def test_environment_yml_has_the_same_direct_dependencies():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert sorted(set(pip) - {"-e ."}) == sorted(declared())


def test_lock_pins_every_direct_dependency_to_a_version_that_is_allowed():
    from packaging.requirements import Requirement

    lock = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M))
    lock = {name.lower().replace("_", "-"): version for name, version in lock.items()}
    for requirement in map(Requirement, declared()):
        pinned = lock[bare(str(requirement))]
        assert requirement.specifier.contains(pinned), (requirement, pinned)


def test_imports_of_the_packages_are_declared():
    """Every third-party module imported by the packages comes from a declared dependency."""
    provided = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "bs4": "beautifulsoup4",
                "pypandoc": "pypandoc-binary", "jupyter_server": "jupyterlab", "IPython": "ipykernel",
                "jinja2": "nbconvert", "traitlets": "nbconvert", "pygments": "nbconvert",
                "jupyter_client": "nbclient", "ipykernel": "ipykernel", "tornado": "jupyterlab",
                "fontTools": "matplotlib"}  # fmt: skip

    names = {bare(requirement) for requirement in [*declared(), *PROJECT["optional-dependencies"]["cluster"]]}
    for path in [*ROOT.glob("simclr_core/*.py"), *ROOT.glob("reports/labreport/*.py")]:
        for module in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.M):
            if module in sys.stdlib_module_names or module in ("simclr_core", "labreport"):
                continue
            assert bare(provided.get(module, module)) in names, (path.name, module)


def test_core_knows_nothing_of_the_report():
    banned = ("matplotlib", "labreport", "papermill", "nbconvert", "nbformat", "IPython", "ipykernel", "pandas")
    for path in ROOT.glob("simclr_core/*.py"):
        for module in banned:
            assert not re.search(rf"^\s*(from|import) {module}\b", path.read_text(), re.M), (path.name, module)


def test_core_can_be_imported_without_the_report_s_packages():
    script = (
        "import sys\n"
        "for name in ('matplotlib', 'papermill', 'nbconvert', 'nbformat', 'ipykernel', 'pandas', 'labreport'):\n"
        "    sys.modules[name] = None\n"
        "import simclr_core.pretrain, simclr_core.evaluate, simclr_core.cluster\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True)


def test_code_is_clean_by_ruff():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
