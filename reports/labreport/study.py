"""What a notebook works with: its data, the stored runs, progress while it trains, and the results it leaves."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from labreport.project import project_root
from labreport.results import Results
from simclr_core.data import Dataset, dataset_from_record, load_dataset
from simclr_core.errors import DataNotFound, UserError
from simclr_core.pretrain import PretrainConfig, pretrain
from simclr_core.runs import Run, config_record, find_run, provenance, read_json

Seeds = dict[int, Run]


class Lab:
    """One notebook's workplace.

    Args:
        notebook: its name, e.g. "01_mnist_study".
        namespace: the notebook's globals(), read for its parameters (`threads` is applied, `stand_in_for` and
            `reduced` go into the results).
    """

    def __init__(self, notebook: str, namespace: MutableMapping[str, Any]):
        self.notebook = notebook
        self.parameters = {name: value for name, value in namespace.items() if _is_parameter(name, value)}
        self.root = project_root()
        self.store = Path(os.environ.get("SIMCLR_RUNS") or self.root / "runs")
        if self.parameters.get("threads", 0) > 0:
            torch.set_num_threads(self.parameters["threads"])
        self._data: list[Dataset] = []
        self._runs: set[str] = set()
        self._recorded: list[tuple] = []

    def dataset(self, name: str) -> Dataset:
        """The data set, or (rendering from stored runs) what those runs recorded of it."""
        if os.environ.get("LABREPORT_FROM"):
            data = self._recorded_dataset(name)
        else:
            os.environ.setdefault("SIMCLR_DATA", str(self.root / "data"))  # by hand: kernels start in notebooks/
            os.environ.setdefault("SIMCLR_CACHE", str(self.root / "data/cache"))
            data = load_dataset(name)
        self._data.append(data)
        return data

    def _recorded_dataset(self, name: str) -> Dataset:
        paths = [path for path in self.store.glob("*/provenance.json") if ".damaged" not in path.parent.name]
        records = [record for path in paths if (record := read_json(path)["data"])["name"] == name]
        if not records:
            raise DataNotFound(f"{name}: no stored run in {self.store} was made with it")
        if len({record["fingerprint"] for record in records}) > 1:
            raise DataNotFound(f"{name}: the runs in {self.store} were made with different versions of it; keep one")
        return dataset_from_record(records[0])

    def pretrain(self, plan: Mapping[str, PretrainConfig], seeds: Sequence[int], data: Dataset,
                 keep_epochs: Sequence[int] = (), devices: int = 1) -> dict[str, Seeds]:  # fmt: skip
        """Every configuration of the plan with every seed: name -> seed -> finished run; says what was stored.

        Args:
            devices: GPUs (or CPU processes) that share each run which is not stored.
        """
        runs: dict[str, Seeds] = {}
        for name, config in plan.items():
            for seed in seeds:
                seeded = replace(config, seed=seed)
                stored = find_run(seeded, data.fingerprint, self.store) is not None
                progress = _progress()
                if devices > 1 and not (stored and not keep_epochs) and not data.recorded:
                    pretrain_on(devices, seeded, self.store, keep_epochs, progress)
                run = pretrain(seeded, data, self.store, keep_epochs, progress)
                runs.setdefault(name, {})[seed] = run
                self._runs.add(run.name)
                state = "found in the store" if stored else "not in the store before"
                print(f"{name}, seed {seed}: {run.name}, {state}")
        return runs

    def measure(self, key: str, values: Mapping[int, float], what: str, unit: str = "fraction", figure: str = ""):
        """Record one value a seed for the results JSON (labreport.results)."""
        self._recorded.append((Results.measure, key, values, unit, what, figure))

    def series(self, key: str, values: Mapping[int, Sequence[float]], what: str, unit: str = "nats", figure: str = ""):
        """Record one list a seed for the results JSON."""
        self._recorded.append((Results.series, key, values, unit, what, figure))

    def finish(self) -> None:
        """Write the results JSON beside the report ($LABREPORT_OUTPUT); by hand, without a report, only say so."""
        kept = ("name", "source", "fingerprint", "train", "test")
        stand_in = self.parameters.get("stand_in_for", "")
        data = [{**{k: d.record()[k] for k in kept}, "stand_in_for": stand_in} for d in self._data]
        origin = {**provenance(self.parameters.get("device", "cpu")), "threads": torch.get_num_threads()}
        results = Results(self.notebook, self.parameters, data, self.parameters.get("reduced", ""), self._runs, origin)
        for record, *arguments in self._recorded:
            record(results, *arguments)
        output = os.environ.get("LABREPORT_OUTPUT")
        if output:
            results.write(Path(output) / "results")
        print(f"{len(self._recorded)} results {'recorded' if output else 'computed (no report to write them to)'}")


def pretrain_on(
    devices: int, config: PretrainConfig, store: Path, keep_epochs: Sequence[int] = (), progress: Callable | None = None
) -> None:
    """Train a run on several processes of this machine, a GPU each, by torchrun; it ends in the store.

    Args:
        progress: as simclr_core.pretrain.pretrain's.
    Raises: UserError with the command's own line if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, errors = Path(folder, "run.json"), Path(folder, "errors")
        path.write_text(json.dumps(config_record(config)))
        words = ["--config", path, "--store", store, "--processes", devices, "--events"]
        words += ["--keep-epochs", *keep_epochs] if keep_epochs else []
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        with open(errors, "w") as said, subprocess.Popen(
            [sys.executable, "-m", "simclr_core.pretrain", *map(str, words)],
            env=environment, stdout=subprocess.PIPE, stderr=said, text=True,
        ) as process:  # fmt: skip
            try:
                for line in process.stdout:
                    if progress and line.startswith("{"):
                        progress(json.loads(line))
            except BaseException:  # whatever stops this call stops the training
                process.terminate()
                raise
        status = process.returncode
        if status:
            *_, line = [f"status {status}", *errors.read_text().splitlines()]
            raise UserError(f"{config.label()} on {devices} processes: {line.removeprefix('error: ')}")


def each_seed(evaluation: Callable, runs: Seeds, data: Dataset, config) -> dict[int, dict]:
    """seed -> result of evaluation(run, data, config), the config's own seed set to the run's."""
    return {seed: evaluation(run, data, replace(config, seed=seed)) for seed, run in runs.items()}


def pick(results: Mapping[int, Mapping], key: str) -> dict[int, Any]:
    """seed -> results[seed][key]."""
    return {seed: result[key] for seed, result in results.items()}


def after(curves: Mapping[int, Sequence[float]], epoch: int) -> dict[int, float]:
    """seed -> the value of its curve after that epoch, counted from 1."""
    return {seed: curve[epoch - 1] for seed, curve in curves.items()}


def mean_of(results: Mapping[int, Mapping], key: str) -> dict[int, float]:
    """seed -> mean of the list results[seed][key] (restarts, say)."""
    return {seed: sum(result[key]) / len(result[key]) for seed, result in results.items()}


def _is_parameter(name: str, value: Any) -> bool:
    if name.startswith("_") or name in ("In", "Out"):
        return False
    return isinstance(value, (str, int, float, bool)) or (
        isinstance(value, (list, tuple)) and all(isinstance(v, (str, int, float, bool)) for v in value)
    )


def _progress() -> Callable[[dict], None] | None:
    """Where progress goes: the runner's file, a live curve for a person, or nowhere."""
    if path := os.environ.get("LABREPORT_PROGRESS"):
        return lambda event: _append(Path(path), event)
    if "ipykernel" in sys.modules and not os.environ.get("PYTEST_CURRENT_TEST"):
        from labreport.live import LiveCurve

        return LiveCurve()
    return None


def _append(path: Path, event: dict) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")
