"""nbval's references: smoke runs of every notebook with their outputs in tests/reference; and `run_all.sh test`."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbstripout import strip_output

from labreport.project import Project
from labreport.run.execution import Execution
from labreport.run.progress import Reporter
from labreport.run.runner import Job
from labreport.scratch import scratch_folder
from simclr_core.errors import UserError

VOLATILE = ("metadata.papermill", "cell.metadata.papermill", "cell.metadata.execution")
NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")


def run_tests(project: Project, arguments: Sequence[str]) -> int:
    """pytest and nbval in one go, in an empty store; returns pytest's exit status.

    Args:
        arguments: handed on to pytest; a path or test id among them takes the place of tests and tests/reference.
    """
    tests = project.root / "tests"
    given = any((path := project.root / word.split("::")[0]).exists() and path.is_relative_to(tests)
                for word in arguments if not word.startswith("-"))  # fmt: skip
    places = [] if given else [str(path) for path in ("tests", "tests/reference") if (project.root / path).is_dir()]
    nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "120"]
    sanitize = project.root / "tests" / "sanitize.cfg"
    if sanitize.is_file():
        nbval += ["--nbval-sanitize-with", str(sanitize)]
    with scratch_folder() as scratch:
        environment = {**os.environ, **_fresh(scratch)}
        return subprocess.call([sys.executable, "-m", "pytest", *nbval, *places, *arguments],
                               cwd=project.root, env=environment)  # fmt: skip


def _fresh(scratch: Path) -> dict[str, str]:
    """The environment references are made and checked in: nothing stored, no progress bars, one thread."""
    return {"LABREPORT_OUTPUT": str(scratch / "report"), "SIMCLR_RUNS": str(scratch / "runs"),
            "LABREPORT_PROGRESS": str(scratch / "events"), "OMP_NUM_THREADS": "1"}  # fmt: skip


def update_references(project: Project, reporter: Reporter) -> int:
    """Execute every notebook with its own defaults, one after the other, and keep it as reference.

    Prints the numbers that moved. Nothing is replaced if one notebook fails. Returns the exit status.
    """
    folder = project.root / "tests" / "reference"
    names = project.notebook_names()
    with scratch_folder() as scratch:
        fresh = _fresh(scratch)
        job = Job(project, {name: {} for name in names}, scratch / "report", scratch / "runs")
        for name in names:
            environment = job.kernel_environment(name, Path(fresh["LABREPORT_PROGRESS"])) | fresh
            execution = Execution(project.notebook(name), scratch / f"{name}.ipynb", {}, environment, scratch)
            if error := execution.run():
                raise UserError(f"{name} failed, no reference was changed: {error}")
            reporter.say(f"{name}: executed")
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            reporter.say("\n".join([name, *_replace_reference(scratch / f"{name}.ipynb", folder / f"{name}.ipynb")]))
    for path in folder.glob("*.ipynb"):
        if path.stem not in names:
            path.unlink()
            reporter.say(f"{path.stem}: removed, there is no such notebook")
    return 0


def _replace_reference(executed: Path, reference: Path) -> list[str]:
    """Clean the executed notebook into the reference's place; returns what moved, a line each."""
    notebook = nbformat.read(executed, as_version=4)
    strip_output(notebook, keep_output=True, keep_count=True, keep_id=False, extra_keys=list(VOLATILE))
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "data" in output:  # no checked cell shows a picture: megabytes that nobody compares
            output.data = {kind: content for kind, content in output.data.items() if not kind.startswith("image/")}
    moved = ["  new"]
    if reference.is_file():
        moved = list(moved_texts(nbformat.read(reference, as_version=4), notebook)) or ["  nothing moved"]
    nbformat.write(notebook, reference)
    return moved


def moved_texts(before: nbformat.NotebookNode, after: nbformat.NotebookNode) -> Iterator[str]:
    """Lines "  cell 7: 0.912 -> 0.915 in …" for numbers, "  cell 7: old -> new" where the words differ, too."""
    olds, news = (list(map(_text_lines, notebook.cells)) for notebook in (before, after))
    if len(olds) != len(news):
        yield f"  {len(olds)} cells -> {len(news)} cells"
        return
    for k, (old, new) in enumerate(zip(olds, news, strict=True), start=1):
        if len(old) != len(new):
            yield f"  cell {k}: {len(old)} lines of output -> {len(new)}"
        for was, now in zip(old, new, strict=False):
            if was != now and NUMBER.sub("#", was) == NUMBER.sub("#", now):
                pairs = zip(NUMBER.findall(was), NUMBER.findall(now), strict=True)
                changes = ", ".join(f"{a} -> {b}" for a, b in pairs if a != b)
                yield f"  cell {k}: {changes} in {now.strip()}"
            elif was != now:
                yield f"  cell {k}: {was.strip()} -> {now.strip()}"


def _text_lines(cell: nbformat.NotebookNode) -> list[str]:
    """Every line of the cell's text outputs, one kind for each output."""
    lines = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        text = output.get("text") or data.get("text/markdown") or data.get("text/plain") or output.get("evalue") or ""
        lines += "".join(text).splitlines()
    return lines
