"""A small checkout for the runner's tests: two notebooks and a summary, which train nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from labreport.store.files import checksum as _checksum

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}

PARAMETERS = """
dataset = "digits"  # str
seeds = [0]  # list of int
epochs = 2  # int
lr = 0.1  # float
stand_in_for = ""  # str
"""
SETUP = """
from simclr_core.data import load_dataset
from simclr_core.config import PretrainConfig
data = load_dataset(dataset)
"""
PLAN = """
plan = {"basic": PretrainConfig(dataset, (0, 64), batch_size=32, epochs=epochs, lr=lr)}
"""
WRITE_RESULTS = """
import hashlib, json, os, pathlib
values = {{str(seed): 0.5 + epochs / 100 for seed in seeds}}
measure = {{"values": values, "unit": "fraction", "what": "a toy accuracy", "figure": ""}}
parameters = {{"epochs": epochs, "seeds": seeds}}
content = {{"notebook": {name!r}, "parameters": parameters, "measures": {{{name!r}: measure}},
           "series": {{}}, "reduced": "", "data": []}}
content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
folder = pathlib.Path(os.environ["LABREPORT_OUTPUT"], "results")
folder.mkdir(parents=True, exist_ok=True)
_ = (folder / "{name}.json").write_text(json.dumps(content))
"""
SUMMARY = """
import json, os, pathlib
content = json.loads(pathlib.Path(os.environ["LABREPORT_OUTPUT"], "results.json").read_text())
print("found", sorted(content["notebooks"]), "failed", sorted(content["failed"]))
"""
ABSTRACT = """
from IPython.display import display
display({"text/markdown": "All is well.", "text/plain": "-"}, raw=True, metadata={"labreport": {"abstract": True}})
"""


def sealed(content: Any) -> str:
    """JSON with the checksum that belongs to it, whatever it holds; what is no object has no place for one."""
    return json.dumps({**content, "sha256": _checksum(content)} if isinstance(content, dict) else content)


def write_notebook(path: Path, *cells: tuple[str, str]) -> None:
    """cells: (tag or "markdown" or "", source)."""
    notebook = new_notebook(metadata=KERNEL)
    for k, (tag, source) in enumerate(cells):
        make = new_markdown_cell if tag == "markdown" else new_code_cell
        tags = {"tags": [tag]} if tag not in ("", "markdown") else {}
        notebook.cells.append(make(source.strip(), metadata=tags, id=f"cell-{k}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def study_cells(name: str, *more: str) -> list[tuple[str, str]]:
    """A study that writes one measure; `more` are further code cells."""
    return [("markdown", f"# {name}"), ("parameters", PARAMETERS), ("", WRITE_RESULTS.format(name=name)),
            *(("", source) for source in more)]  # fmt: skip


def planned_cells(name: str) -> list[tuple[str, str]]:
    """A study with setup and plan cells, for what is known before anything is trained; it trains nothing."""
    return [("markdown", f"# {name}"), ("parameters", PARAMETERS), ("setup", SETUP), ("plan", PLAN),
            ("", WRITE_RESULTS.format(name=name))]  # fmt: skip


def make_project(root: Path, notebooks: Sequence[str] = ("01_first", "02_second", "99_summary")) -> Path:
    """Notebooks and the profile `tiny`, which overrides nothing."""
    for name in notebooks:
        if name.startswith("99"):
            cells = [("markdown", "# Summary"), ("", SUMMARY), ("remove-cell", ABSTRACT)]
        else:
            cells = study_cells(name)
        write_notebook(root / "notebooks" / f"{name}.ipynb", *cells)
    write_profile(root, "tiny", "01_first: {}\n" if "01_first" in notebooks else "")
    return root


def write_profile(root: Path, name: str, text: str) -> None:
    path = root / "notebooks" / "profiles" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
