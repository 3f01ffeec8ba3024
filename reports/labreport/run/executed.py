"""Executed notebooks, kept and found again: `<report>/notebooks/<name>.ipynb` with `<name>.json` beside it.

The sidecar holds a key over everything the notebook's outputs follow from, its results, and the SHA-256 of the notebook
and of each figure and table that it wrote beside the report, so that a damaged one is executed again and not rendered.
It is written last, after a complete execution: what a notebook's own metadata say about its execution is never asked.
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
from labreport.store.files import file_sha256, read_json, write_json
from labreport.store.provenance import provenance
from simclr_core.data.files import set_aside, write_atomically
from simclr_core.errors import StoreError

PACKAGES = (Path(simclr_core.__file__).parent, Path(__file__).parents[1])
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
        """True if it was executed with this key and is whole; what is damaged is named and set aside."""
        sidecar = self._read_sidecar()
        return sidecar.get("key") == key and all(self._is_whole(*file) for file in sidecar["files"].items())

    def _is_whole(self, name: str, checksum: str) -> bool:
        path = self.report / name
        if path.is_file() and file_sha256(path) == checksum:
            return True
        if path.exists():
            set_aside(path, f"{path} is damaged (its checksum does not fit)")
        return False

    def _read_sidecar(self) -> dict[str, Any]:
        """Empty where there is no whole one."""
        try:
            return read_json(self.sidecar)
        except StoreError:
            return {}

    def _written(self) -> list[Path]:
        """The executed notebook, and the figures and tables that it wrote, by the labels of its outputs."""
        outputs = [output for cell in read_notebook(self.path).cells for output in cell.get("outputs", [])]
        labels = [output.get("metadata", {}).get("labreport", {}).get("label", "") for output in outputs]
        folders = {"fig": ("figures", "pdf"), "tbl": ("tables", "csv")}
        beside = [self.report / folder / f"{label}.{suffix}" for label in labels
                  for kind, (folder, suffix) in folders.items() if label.startswith(f"{kind}-")]  # fmt: skip
        return [self.path, *(path for path in beside if path.is_file())]

    def conclude(self, key: str, error: str) -> None:
        """After an execution: keep a complete one with the results it wrote, drop what a failed one wrote."""
        if error:
            self.results.unlink(missing_ok=True)
            return
        results = self.results.read_text(encoding="utf-8") if self.results.is_file() else None
        files = {str(path.relative_to(self.report)): file_sha256(path) for path in self._written()}
        if self.sidecar.is_dir():
            set_aside(self.sidecar, f"{self.sidecar} is damaged (a folder)")
        write_json(self.sidecar, {"key": key, "results": results, "files": files})

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
