"""Executed notebooks, kept and found again: `<report>/notebooks/<name>.ipynb` with `<name>.json` beside it.

The sidecar holds a key over everything the notebook's outputs follow from, and its results. It is written last, after
a complete execution, so what a notebook's own metadata say about its execution is never asked.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import simclr_core
from labreport.parameters import read_notebook
from simclr_core.runs import provenance, write_atomically

PACKAGES = (Path(simclr_core.__file__).parent, Path(__file__).parent)
LIBRARIES = ("papermill", "ipykernel", "matplotlib", "pandas", "scipy")  # beside those in provenance()


@dataclass(frozen=True)
class Executed:
    """The executed form of one notebook in a report's folder."""

    report: Path
    name: str

    @property
    def path(self) -> Path:
        return self.report / "notebooks" / f"{self.name}.ipynb"

    @property
    def results(self) -> Path:
        return self.report / "results" / f"{self.name}.json"

    @property
    def sidecar(self) -> Path:
        return self.path.with_suffix(".json")

    def is_current(self, key: str) -> bool:
        return self.path.is_file() and self._read_sidecar().get("key") == key

    def _read_sidecar(self) -> dict[str, Any]:
        try:
            content = json.loads(self.sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def conclude(self, key: str, error: str) -> None:
        """After an execution: keep a complete one with the results it wrote, drop what a failed one wrote."""
        if error:
            self.results.unlink(missing_ok=True)
            return
        results = self.results.read_text(encoding="utf-8") if self.results.is_file() else None
        write_atomically(self.sidecar, json.dumps({"key": key, "results": results}, indent=1) + "\n")

    def restore_results(self) -> None:
        """Put the results back where 99_summary reads them, as they were kept."""
        results = self._read_sidecar().get("results")
        if results is not None:
            write_atomically(self.results, results)

    def forget(self) -> None:
        self.sidecar.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def execution_key(path: Path, parameters: Mapping[str, Any], **inputs: Any) -> str:
    """SHA-256 over cells, parameters, our source, versions, device, matplotlibrc and `inputs` (JSON types)."""
    cells = [[cell.cell_type, cell.source] for cell in read_notebook(path).cells]
    style = path.parent / "matplotlibrc"
    everything = {
        "cells": cells,
        "parameters": dict(parameters),
        "source": _source_hash(),
        "versions": [
            provenance()["versions"],
            provenance()["device"],
            [_version(name) for name in LIBRARIES],
        ],
        "style": style.read_text() if style.is_file() else "",
        "inputs": inputs,
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


@cache
def _source_hash() -> str:
    return hash_files(path for package in PACKAGES for path in package.rglob("*.py"))


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over names and contents, in the order of the paths."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.parent.name}/{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
