"""--from DIR: a report made elsewhere, rendered again from its stored runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labreport.results import read_report_results
from labreport.run.executed import hash_files
from simclr_core.errors import UserError


@dataclass(frozen=True)
class StoredReport:
    """store: its run store; profile, parameters (notebook -> parameter -> value) and provenance as recorded there;
    finished: whether the call that wrote them came to its end."""

    store: Path
    profile: str | None = None
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    finished: bool = True

    def fingerprint(self) -> str:
        """Over everything in the store that a report reads, weights apart."""
        return hash_files(path for path in self.store.rglob("*") if path.suffix in (".json", ".csv") and path.is_file())


def read_stored_report(folder: Path) -> StoredReport:
    """A report's folder (results.json and runs/), or a run store alone.

    Raises: UserError if it is neither, or its results.json is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"--from {folder}: no such folder; give a report's folder (holding runs/) or a run store")
    store = folder / "runs" if (folder / "runs").is_dir() else folder
    if not any(store.glob("*/config.json")):
        raise UserError(f"--from {folder}: no run there; expected a report's folder with runs/<run>/config.json")
    results = folder / "results.json"
    if not results.is_file():
        return StoredReport(store.absolute())
    content = read_report_results(results)
    try:
        parameters = {name: dict(result["parameters"]) for name, result in content["notebooks"].items()}
        made = content["provenance"]
        texts = [content["profile"], made["commit"], made["device"], *made["versions"], *made["versions"].values()]
        "".join(texts).encode()  # a TypeError for what is no text, a ValueError for what is no UTF-8
        made = {**made, "dirty": bool(made["dirty"])}
        return StoredReport(store.absolute(), content["profile"], parameters, made, bool(content["finished"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{results} is damaged ({type(error).__name__}: {error}); copy the report anew") from error
