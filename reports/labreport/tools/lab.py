"""`run_all.sh lab`: JupyterLab on the notebooks, a profile's values filled in, nothing odd in what is saved.

A notebook opened here shows, below its own parameters cell, the cell that papermill would put there. It exists in the
browser and not in the file: on saving it is taken out again, with outputs, counters and whatever else a session
leaves. So the files in notebooks/ stay as they are committed, and there is one editable form of each.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from nbstripout import strip_output
from papermill.translators import PythonTranslator

from labreport.parameters import INJECTED, has_tag
from labreport.run.runner import Job

SESSION_KEYS = ("cell.metadata.execution", "cell.metadata.collapsed", "cell.metadata.scrolled", "cell.metadata.trusted",
                "cell.metadata.ExecuteTime", "cell.metadata.jupyter", "cell.metadata.papermill")  # fmt: skip
# JupyterLab asks the network for its news and its newest version otherwise.
QUIET = ("--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate")


class FilledInNotebooks(AsyncLargeFileManager):
    """Jupyter's own file manager, but notebooks named in $LABREPORT_PARAMETERS are filled in and saved clean."""

    async def get(self, path, content=True, type=None, format=None, require_hash=False):
        model = await super().get(path, content, type, format, require_hash)
        if content and model["type"] == "notebook" and _is_source(path):
            fill_in(model["content"], _parameters().get(Path(path).stem, {}))
            self.mark_trusted_cells(model["content"], path)
        return model

    async def save(self, model, path=""):
        if model.get("type") == "notebook" and "content" in model and _is_source(path):
            notebook = nbformat.from_dict(model["content"])
            before = Path(self._get_os_path(path.strip("/")))
            clean(notebook, nbformat.read(before, as_version=4).metadata if before.is_file() else {})
            model = {**model, "content": notebook}
        return await super().save(model, path)


def _is_source(path: str) -> bool:
    return Path(path.strip("/")).parent == Path("notebooks")


def _parameters() -> dict[str, dict[str, Any]]:
    return json.loads(os.environ.get("LABREPORT_PARAMETERS", "{}"))


def fill_in(notebook: nbformat.NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Put the profile's values in a cell below the notebook's own parameters, as papermill does."""
    profile = os.environ.get("LABREPORT_PROFILE", "")
    comment = f"Parameters of profile {profile}, filled in by ./run_all.sh lab; not saved with the notebook"
    places = [k for k, cell in enumerate(notebook.cells) if has_tag(cell, "parameters")]
    if parameters and places:
        cell = nbformat.v4.new_code_cell(PythonTranslator.codify(dict(parameters), comment), id=INJECTED)
        cell.metadata["tags"] = [INJECTED]
        notebook.cells.insert(places[-1] + 1, cell)


def clean(notebook: nbformat.NotebookNode, metadata: Mapping[str, Any]) -> None:
    """Take out what a session leaves: filled-in cell, outputs, counters; `metadata` are the file's own, kept."""
    notebook.cells = [cell for cell in notebook.cells if not has_tag(cell, INJECTED)]
    strip_output(notebook, keep_output=False, keep_count=False, keep_id=True, extra_keys=list(SESSION_KEYS))
    if metadata:
        notebook.metadata = metadata


def open_lab(job: Job, profile: str, arguments: Sequence[str]) -> int:
    """Run JupyterLab until it is closed; returns its exit status.

    What is run by hand finds the stored runs, and writes its figures and results below <report>/by_hand, which starts
    with the report's own results: the report itself changes by run_all.sh only.
    """
    by_hand = job.output / "by_hand"
    if (job.output / "results").is_dir():
        shutil.copytree(job.output / "results", by_hand / "results", dirs_exist_ok=True)
    by_hand.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **job.environment, "LABREPORT_OUTPUT": str(by_hand),
                   "LABREPORT_PROFILE": profile, "LABREPORT_PARAMETERS": json.dumps(job.parameters)}  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={job.project.root}",
               "--ServerApp.contents_manager_class=labreport.tools.lab.FilledInNotebooks",
               "--LabApp.default_url=/lab/tree/notebooks", *QUIET, *arguments]  # fmt: skip
    try:
        return subprocess.call(command, env=environment, cwd=job.project.root)
    except KeyboardInterrupt:
        return 0
