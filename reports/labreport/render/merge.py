"""One notebook from many: a report's executed notebooks in reading order, and what its title page says."""

from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_notebook

from labreport.parameters import read_notebook


@dataclass(frozen=True)
class Section:
    """A notebook of the report; with `error` it is rendered as far as it got and marked as failed."""

    name: str  # the notebook's file name without .ipynb
    path: Path | None  # the executed notebook; None when there is none
    error: str | None = None  # what stopped it


@dataclass(frozen=True)
class Front:
    """The title page."""

    title: str
    abstract_markdown: str = ""
    banner: str | None = None  # shown in red, and pointed to from each table: stand-in data and the like
    facts: dict[str, str] = field(default_factory=dict)  # profile, device, commit, versions, data
    dirty: bool = False  # made from files that are not committed


def merge(sections: list[Section], front: Front) -> NotebookNode:
    """The sections' cells in one notebook, with ids that depend on their place alone.

    Raises: UserError naming a notebook that cannot be read.
    """
    merged = new_notebook()
    merged.metadata["labreport"] = {
        "title": front.title,
        "abstract": front.abstract_markdown,
        "banner": front.banner or "",
        "facts": dict(front.facts),
        "dirty": front.dirty,
        "sections": [
            {"name": s.name, "folder": str(s.path.parent) if s.path else "", "error": s.error or ""} for s in sections
        ],
    }
    for index, section in enumerate(sections):
        cells = read_notebook(section.path).cells if section.path else []
        for number, cell in enumerate(cells, start=1):
            cell["id"] = f"s{index}-c{number}"
            cell.metadata["labreport"] = {"section": index, "cell": number}
            merged.cells.append(cell)
    nbformat.validate(merged)
    return merged
