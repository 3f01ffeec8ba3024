"""What a notebook works with: its data, the stored runs, progress while it trains, and the results it leaves."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from labreport.parameters import data_of
from labreport.project import project_root
from labreport.results import Results
from labreport.store import pretrain
from labreport.store.files import read_json
from labreport.store.identity import label, run_name
from labreport.store.provenance import provenance
from labreport.store.recorded import dataset_from_record
from labreport.store.runs import Run, find_run
from labreport.text import literal_markdown
from simclr_core.config import PretrainConfig
from simclr_core.data import Dataset, load_dataset
from simclr_core.errors import DataNotFound, UserError
from simclr_core.evaluate import ProbeConfig
from simclr_core.memory import keep_freed_memory

Seeds = dict[int, Run]


class _ClassName(str):
    """A class's name, which is a folder's: in a sentence for the report, f"… {name} …", none of it is markup."""

    def __format__(self, spec: str) -> str:
        return format(literal_markdown(self), spec)


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
        keep_freed_memory()
        self._data: list[tuple[Dataset, str]] = []  # and what it stands in for
        self._runs: set[str] = set()
        self._recorded: list[tuple] = []

    def dataset(self, name: str, stand_in_for: str | None = None) -> Dataset:
        """The data set, or (rendering from stored runs) what those runs recorded of it.

        Args:
            stand_in_for: the data set it stands in for; None: the notebook's parameter of that name.
        """
        if stand_in_for is None:
            stand_in_for = self.parameters.get("stand_in_for", "")
        if os.environ.get("LABREPORT_FROM"):
            data = self._recorded_dataset(name)
        else:
            os.environ.setdefault("SIMCLR_DATA", str(self.root / "data"))  # by hand: kernels start in notebooks/
            os.environ.setdefault("SIMCLR_CACHE", str(self.root / "data/cache"))
            data = load_dataset(name)
        self._data.append((data, stand_in_for))
        return replace(data, class_names=tuple(map(_ClassName, data.class_names)))

    def _recorded_dataset(self, name: str) -> Dataset:
        paths = [path for path in self.store.glob("*/provenance.json") if ".damaged" not in path.parent.name]
        recorded = [data for path in paths if (data := dataset_from_record(read_json(path).get("data"))).name == name]
        if not recorded:
            raise DataNotFound(f"{name}: no stored run in {self.store} was made with it")
        if len({data.fingerprint for data in recorded}) > 1:
            raise DataNotFound(f"{name}: the runs in {self.store} were made with different versions of it; keep one")
        return recorded[0]

    def pretrain(self, plan: Mapping[str, PretrainConfig], seeds: Sequence[int],
                 data: Dataset | Mapping[str, Dataset], keep_epochs: Sequence[int] = (), devices: int = 1
                 ) -> dict[str, Seeds]:  # fmt: skip
        """Every configuration of the plan with every seed: name -> seed -> finished run; says what was stored.

        Args:
            data: of all runs, or data sets by the names in the configurations.
            keep_epochs: epochs whose encoders this notebook wants, where a run has so many; those that other notebooks
                of the report want of the same run ($LABREPORT_KEEP) are kept too.
            devices: GPUs (or CPU processes) that share each run which is not stored.
        """
        for_others = json.loads(os.environ.get("LABREPORT_KEEP", "{}"))
        runs: dict[str, Seeds] = {}
        for name, config in plan.items():
            images = data_of(config, data)
            wanted, found = {epoch for epoch in keep_epochs if epoch <= config.epochs}, 0
            for seed in seeds:
                seeded = replace(config, seed=seed)
                stored = find_run(seeded, images, self.store) is not None
                keep = sorted(wanted.union(for_others.get(run_name(seeded, images), ())))
                progress = _progress()
                if devices > 1 and not (stored and not keep) and not images.recorded:
                    pretrain_on(devices, seeded, self.store, keep, progress)
                run = pretrain(seeded, images, self.store, keep, progress)
                runs.setdefault(name, {})[seed] = run
                self._runs.add(run.name)
                found += stored
            listed = ", ".join(map(str, seeds))
            print(f"{name}: {label(config)}, seed {listed}; {found} of {len(seeds)} found in the store")
        return runs

    def export_encoder(self, run: Run, name: str) -> str:
        """Write the run's encoder beside the report ($LABREPORT_OUTPUT, else reports/); returns a sentence about it."""
        path = Path(os.environ.get("LABREPORT_OUTPUT") or self.root / "reports") / "encoders" / f"{name}.safetensors"
        if not (run.path / "encoder.safetensors").is_file():
            return f"The encoder of {run.name} is not here: the run came without weights. These lines would load it:"
        run.export_encoder(path)
        return f"The encoder is in `encoders/{path.name}` beside this report; these lines load it (docs/encoder.md):"

    def measure(self, key: str, values: Mapping[int, float], what: str, unit: str = "fraction", figure: str = "",
                setting: Mapping[str, float] | None = None, reduced: str | None = None) -> None:  # fmt: skip
        """Record one value a seed for the results JSON (labreport.results)."""
        self._recorded.append((Results.measure, key, values, unit, what, figure, setting, reduced))

    def series(self, key: str, values: Mapping[int, Sequence[float]], what: str, unit: str = "nats", figure: str = "",
               setting: Mapping[str, float] | None = None, reduced: str | None = None) -> None:  # fmt: skip
        """Record one list a seed for the results JSON."""
        self._recorded.append((Results.series, key, values, unit, what, figure, setting, reduced))

    def finish(self) -> None:
        """Write the results JSON beside the report ($LABREPORT_OUTPUT); by hand, without a report, only say so."""
        kept = ("name", "source", "fingerprint", "train", "test")
        data = [{**{k: d.record()[k] for k in kept}, "stand_in_for": replaced} for d, replaced in self._data]
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
        progress: as labreport.store.pretrain's.
    Raises: UserError with the command's own line if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, errors = Path(folder, "run.json"), Path(folder, "errors")
        path.write_text(json.dumps(config.record()))
        words = ["--config", path, "--store", store, "--processes", devices, "--events"]
        words += ["--keep-epochs", *keep_epochs] if keep_epochs else []
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        with open(errors, "w") as said, subprocess.Popen(
            [sys.executable, "-m", "labreport.store", *map(str, words)],
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
            raise UserError(f"{label(config)} on {devices} processes: {line.removeprefix('error: ')}")


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


def per_class(fraction: float, labels: int, classes: int) -> int:
    """Labelled images of each class in a fraction of the labels; 0, ProbeConfig's word for all of them, at 1.

    Raises: UserError where that is less than one image.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction {fraction} of the labels: expected more than 0 and at most 1")
    if fraction == 1:
        return 0
    if not (count := round(fraction * labels / classes)):
        raise UserError(f"fraction {fraction:g} of {labels:,} labels is less than one of each of {classes} classes; "
                        "leave it out or take more images")  # fmt: skip
    return count


def few_labels(evaluation: Callable, runs: Seeds, config: ProbeConfig, data: Dataset, fractions: Sequence[float],
               draws: int, steps: int) -> dict[int, dict[tuple[int, int], float]]:  # fmt: skip
    """Number of labels -> (seed, draw) -> test accuracy of the evaluation with a fraction of the labels.

    Args:
        config: its labels are drawn from; epochs are set so that about `steps` steps are taken, at least one epoch.
        draws: lists of labels for each fraction; all labels are one.
    """
    total, classes = config.labels[1] - config.labels[0], len(data.class_names)
    out = {}
    for fraction in fractions:
        count = per_class(fraction, total, classes)
        labels = count * classes or total
        epochs = max(1, round(steps / math.ceil(labels / config.batch_size)))
        given = replace(config, per_class=count, epochs=epochs)
        out[labels] = {
            (seed, draw): evaluation(run, data, replace(given, seed=seed, draw=draw))["accuracy"]
            for seed, run in runs.items()
            for draw in range(draws if count else 1)
        }
    return out


def mean_of_draws(values: Mapping[tuple[int, int], float]) -> dict[int, float]:
    """seed -> mean over its draws."""
    by_seed: dict[int, list[float]] = {}
    for (seed, _), value in values.items():
        by_seed.setdefault(seed, []).append(value)
    return {seed: sum(row) / len(row) for seed, row in by_seed.items()}


def loading_code(run: Run) -> str:
    """The three lines that load an exported encoder, by torchvision's own ResNet where it fits (docs/encoder.md)."""
    config, data = run.config, run.record["data"]
    side, _, channels = data["image_shape"]
    if config.encoder.startswith("resnet") and config.width == 1 and config.stem == "cifar":
        conv1 = f"nn.Conv2d({channels}, 64, 3, padding=1, bias=False)"
        made = (f"encoder = torchvision.models.{config.encoder}()\n"
                f"encoder.conv1, encoder.maxpool, encoder.fc = {conv1}, nn.Identity(), nn.Identity()")  # fmt: skip
    else:
        given = f"{config.encoder!r}, {channels}, {side}, {config.width}, {config.stem!r}"
        made = f"from simclr_core.model import build_encoder\nencoder = build_encoder({given})"
    return f'{made}\nencoder.load_state_dict(safetensors.torch.load_file("your_images.safetensors"))'


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
        from labreport.notebook.live import LiveCurve

        return LiveCurve()
    return None


def _append(path: Path, event: dict) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")
