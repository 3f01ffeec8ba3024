"""The results JSON: one file a notebook, the only thing that 99_summary and the claims read.

`{"notebook", "parameters", "data", "reduced", "measures", "series", "runs", "provenance"}`; a measure holds
a value a seed, a series one list a seed (an entry an epoch). Floats are written as they are; NaN is refused.
A measure at a size of its own says so: `"setting"` (images, width, epochs, seeds, pflop) and `"reduced"`, how it is
cut down ("" if it is not), which stands before its notebook's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labreport.store.files import read_json, write_json
from simclr_core.errors import StoreError, UserError

SETTING = ("images", "width", "epochs", "seeds", "pflop")


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

    def measure(
        self, key: str, values: Mapping[int, float], unit: str, what: str, figure: str = "",
        setting: Mapping[str, float] | None = None, reduced: str | None = None,
    ) -> None:  # fmt: skip
        """Record one value a seed.

        Args:
            key: dotted name, e.g. "mnist.r2.hidden.1part".
            values: seed -> finite value.
            unit: "fraction", "seconds", …
            what: the quantity in words.
            figure: label of the figure that shows it.
            setting: its size, of images, width, epochs, seeds and pflop what is known.
            reduced: how it is cut down; None: as its notebook is.
        Raises: ValueError if the key is taken, there is no value, or one is not finite.
        """
        finite = {seed: _finite(key, seed, value) for seed, value in values.items()}
        self._add("measures", key, finite, unit, what, figure, setting, reduced)

    def series(
        self, key: str, values: Mapping[int, Sequence[float]], unit: str, what: str, figure: str = "",
        setting: Mapping[str, float] | None = None, reduced: str | None = None,
    ) -> None:  # fmt: skip
        """Record one list a seed, an entry an epoch; otherwise as `measure`."""
        finite = {seed: [_finite(key, seed, value) for value in row] for seed, row in values.items()}
        self._add("series", key, finite, unit, what, figure, setting, reduced)

    def _add(
        self, kind: str, key: str, values: dict, unit: str, what: str, figure: str,
        setting: Mapping[str, float] | None, reduced: str | None,
    ) -> None:  # fmt: skip
        if key in self.content["measures"] or key in self.content["series"]:
            raise ValueError(f"{key} is recorded twice in {self.content['notebook']}: give each value its own key")
        if not values or [] in values.values():
            raise ValueError(f"{key} has no value: expected at least one seed with at least one number")
        by_seed = {str(seed): values[seed] for seed in sorted(values)}
        entry = {"values": by_seed, "unit": unit, "what": what, "figure": figure}
        if setting is not None:
            if unknown := setting.keys() - SETTING:
                raise ValueError(f"{key} has the setting {sorted(unknown)}: expected of {', '.join(SETTING)}")
            entry["setting"] = dict(setting)
        self.content[kind][key] = entry if reduced is None else {**entry, "reduced": reduced}

    def write(self, folder: Path) -> Path:
        """Write `<folder>/<notebook>.json` whole or not at all; returns its path."""
        path = Path(folder) / f"{self.content['notebook']}.json"
        write_json(path, self.content)
        return path


def load_results(folder: Path) -> dict[str, dict]:
    """Every results file of a folder by its notebook's name, seeds as integers; empty if there is none.

    Raises: UserError naming a damaged file.
    """
    return {path.stem: read_results(path) for path in sorted(Path(folder).glob("[!.]*.json"))}


def read_results(path: Path) -> dict:
    """One notebook's results, seeds as integers. Raises: UserError for a file that is missing, damaged or another's."""
    if not path.is_file():
        raise UserError(f"{path.stem} wrote no results: its last cell must be lab.finish()")
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


def read_report_results(path: Path) -> dict:
    """A report's results.json: {"notebooks", "failed", "finished", "profile", "provenance"}.

    Raises: UserError if it is damaged, which a missing checksum counts as.
    """
    try:
        return read_json(path)
    except StoreError as error:
        raise UserError(f"{error}; copy the report anew or make it again") from error


def _finite(key: str, seed: int, value: float) -> float:
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{key} is {value} for seed {seed}: expected a finite number")
    return value
