"""The results JSON: one file a notebook, the only thing that 99_summary and the claims read.

`{"notebook", "parameters", "data", "reduced", "measures", "series", "runs", "provenance"}`; a measure holds
a value a seed, a series one list a seed (an entry an epoch). Floats are written as they are; NaN is refused.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simclr_core.errors import StoreError, UserError
from simclr_core.runs import read_json, write_json


class Results:
    """What one notebook measured.

    Args:
        notebook: its name, e.g. "01_mnist_study"; also the file's name.
        parameters: as papermill injected them.
        data: per data set {"name", "source", "fingerprint", "train", "test", "stand_in_for"}.
        reduced: how this profile cuts the protocol down; empty if it does not.
        runs: names of the run folders used.
        provenance: commit, dirty, versions, device, threads.
    """

    def __init__(
        self,
        notebook: str,
        parameters: Mapping[str, Any],
        data: Iterable[Mapping[str, Any]] = (),
        reduced: str = "",
        runs: Iterable[str] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.content: dict[str, Any] = {
            "notebook": notebook,
            "parameters": dict(parameters),
            "data": [dict(entry) for entry in data],
            "reduced": reduced,
            "measures": {},
            "series": {},
            "runs": sorted(set(runs)),
            "provenance": dict(provenance or {}),
        }

    def measure(self, key: str, values: Mapping[int, float], unit: str, what: str, figure: str = "") -> None:
        """Record one value a seed.

        Args:
            key: dotted name, e.g. "mnist.r2.hidden.1part".
            values: seed -> finite value.
            unit: "fraction", "seconds", …
            what: the quantity in words.
            figure: label of the figure that shows it.
        Raises: ValueError if the key is taken, there is no value, or one is not finite.
        """
        finite = {seed: _finite(key, seed, value) for seed, value in values.items()}
        self._add("measures", key, finite, unit, what, figure)

    def series(self, key: str, values: Mapping[int, Sequence[float]], unit: str, what: str, figure: str = "") -> None:
        """Record one list a seed, an entry an epoch; otherwise as `measure`."""
        finite = {seed: [_finite(key, seed, value) for value in row] for seed, row in values.items()}
        self._add("series", key, finite, unit, what, figure)

    def _add(self, kind: str, key: str, values: dict, unit: str, what: str, figure: str) -> None:
        if key in self.content["measures"] or key in self.content["series"]:
            raise ValueError(f"{key} is recorded twice in {self.content['notebook']}: give each value its own key")
        if not values or [] in values.values():
            raise ValueError(f"{key} has no value: expected at least one seed with at least one number")
        by_seed = {str(seed): values[seed] for seed in sorted(values)}
        self.content[kind][key] = {"values": by_seed, "unit": unit, "what": what, "figure": figure}

    def write(self, folder: Path) -> Path:
        """Write `<folder>/<notebook>.json` whole or not at all; returns its path."""
        path = Path(folder) / f"{self.content['notebook']}.json"
        write_json(path, self.content)
        return path


def load_results(folder: Path) -> dict[str, dict]:
    """Every results file of a folder by its notebook's name, seeds as integers; empty if there is none.

    Raises: UserError naming a damaged file.
    """
    return {path.stem: _load(path) for path in sorted(Path(folder).glob("[!.]*.json"))}


def _load(path: Path) -> dict:
    try:
        content = read_json(path)
        if content["notebook"] != path.stem:
            raise StoreError(f"{path} is about {content['notebook']}")
        for entry in (*content["measures"].values(), *content["series"].values()):
            entry["values"] = {int(seed): values for seed, values in entry["values"].items()}
    except StoreError as error:
        raise UserError(f"{error}: delete it and run the notebook again") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a results file of this report: delete it and run the notebook again") from error
    return content


def _finite(key: str, seed: int, value: float) -> float:
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{key} is {value} for seed {seed}: expected a finite number")
    return value
