"""How the report's numbers came about: environment, parameters and runs, as tables."""

import os
from collections import defaultdict
from pathlib import Path

import pandas as pd

from labreport.environment import read_lock, unlocked
from labreport.project import project_root
from labreport.science.summary import Results
from labreport.store.files import read_json
from labreport.store.runs import read_history
from labreport.text import literal
from simclr_core.errors import StoreError


def environment_frame(results: Results) -> pd.DataFrame:
    """Device, versions, commit and data of each section; at the end the lock's differences."""
    rows = []
    for name, content in results.items():
        origin, threads = content["provenance"], content["provenance"]["threads"]
        data = [f"{d['name']}: {d['source']}; SHA-256 {d['fingerprint'][:16]}…"
                for d in content["data"]]  # fmt: skip
        versions = ", ".join(f"{k} {v}" for k, v in origin["versions"].items())
        device = f"{origin['device']}, {threads} thread{'s' if threads != 1 else ''}"
        rows.append((name, device, versions, _commit(origin), literal("; ".join(data))))
    if rows:
        rows.append(("this summary", "–", locked_versions(), "–", "–"))
    return pd.DataFrame(rows, columns=["section", "device", "versions", "commit", "data"])


def _commit(origin: dict) -> str:
    """The commit of a provenance, as the tables name it."""
    return origin["commit"][:12] + (" (dirty)" if origin["dirty"] else "")


def locked_versions() -> str:
    """Whether the packages installed here are those of requirements.lock, and which are not."""
    lock = read_lock()
    if not lock:
        return "not compared with requirements.lock, which is not here"
    other = ", ".join(unlocked(lock))
    return f"not as in requirements.lock: {other}" if other else "all as in requirements.lock"


def parameters_frame(results: Results) -> pd.DataFrame:
    """A row for each parameter and value, with the sections that ran with it."""
    sections = defaultdict(list)
    for name, content in results.items():
        for key, value in content["parameters"].items():
            sections[key, literal(str(value))].append(name)
    rows = [(*pair, "all" if len(names) == len(results) else ", ".join(names))
            for pair, names in sorted(sections.items(), key=lambda item: item[0][0])]  # fmt: skip
    return pd.DataFrame(rows, columns=["parameter", "value", "sections"])


def runs_frame(results: Results) -> pd.DataFrame:
    """A row a stored run that the report rests on; one that has gone from the store says so."""
    store = Path(os.environ.get("SIMCLR_RUNS") or project_root() / "runs")
    names = sorted({run for content in results.values() for run in content["runs"]})
    columns = ("run", "seed", "epochs", "final loss", "seconds", "commit")
    return pd.DataFrame([_run_row(store / name) for name in names], columns=columns)


def time_spent(results: Results) -> str:
    """The minutes of all pre-training runs together."""
    spent = [float(row) for row in runs_frame(results)["seconds"] if row != "–"]
    return (f"Pre-training took {sum(spent) / 60:.0f} minutes in all, one run after the other "
            f"({len(spent)} runs, @tbl-runs).")  # fmt: skip


def _run_row(path: Path) -> tuple:
    try:
        seed = str(read_json(path / "config.json")["config"]["seed"])
        history, origin = read_history(path / "history.csv"), read_json(path / "provenance.json")
        loss = f"{history[-1]['loss']:.4f}" if history else "–"
        seconds = f"{sum(row['seconds'] for row in history):.1f}"
        return path.name, seed, str(len(history)), loss, seconds, _commit(origin)
    except (StoreError, OSError, ValueError, KeyError, TypeError):
        return path.name, "–", "–", "not in the store", "–", "–"
