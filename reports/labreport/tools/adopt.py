"""`adopt`: after a refactoring, a sample of the stored runs is made again; if it agrees, all stay.

The sample covers every value of every field of runs and evaluations that occurs, cheapest first.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from labreport import measure
from labreport.store.command import read_config
from labreport.store.files import read_json, write_json
from labreport.store.identity import (
    EVALUATED_BY,
    changed,
    evaluation_code,
    run_name,
    training_code,
)
from labreport.store.packed import unpack_arrays
from labreport.store.provenance import provenance
from labreport.store.runs import Run
from labreport.store.train import pretrain
from simclr_core.cluster import ClusterConfig
from simclr_core.data import load_dataset
from simclr_core.data.dataset import Dataset
from simclr_core.errors import UserError
from simclr_core.evaluate import ProbeConfig

# Where CPU, GPU or versions differ: rounding alone moves losses by 1 % within twenty steps
# (measured between two CPU kernels), and with them what is measured on the weights.
TOLERANCE = 0.05


def adopt(store: Path, data_dir: str | None = None, say: Callable[[str], None] = print) -> int:
    """Give the store's stale runs today's code, if a sample of them agrees; returns how many.

    Raises: UserError naming the first run and number that do not agree; nothing is changed then.
    """
    stale = [pair for pair in _runs(store, data_dir) if _is_stale(*pair)]
    sample = list(covering_sample(stale))
    say(f"{len(stale)} runs of other code; {len(sample)} of them cover every setting that occurs")
    again = store / ".adopting"
    try:
        exact = [_agrees(run, data, again, say) for run, data in sample]
    finally:
        shutil.rmtree(again, ignore_errors=True)
    here = {key: provenance()[key] for key in ("commit", "dirty", "device")}
    proof = {"compared": [run.name for run, _ in sample], "to the bit": all(exact), **here}
    for run, data in stale:
        for path in _evaluations(run):
            _date_forward(path, evaluation_code(_kind(path)), proof)
        _date_forward(run.path / "provenance.json", training_code(run.config, data), proof)
    say(f"{len(stale)} runs adopted")
    return len(stale)


def _runs(store: Path, data_dir: str | None) -> Iterator[tuple[Run, Dataset]]:
    """The finished runs that can be made again here."""
    held: dict[str, Dataset] = {}
    for path in sorted(store.glob("[!.]*/provenance.json")):
        if ".damaged" in path.parent.name:
            continue
        run = Run(path.parent, read_config(path.parent / "config.json"))
        name = run.config.dataset
        held[name] = held.get(name) or load_dataset(name, data_dir)
        if run_name(run.config, held[name]) == run.name:  # not of other data, or own parts
            yield run, held[name]


def _is_stale(run: Run, data: Dataset) -> bool:
    made_by = {run.path / "provenance.json": training_code(run.config, data)}
    made_by |= {path: evaluation_code(_kind(path)) for path in _evaluations(run)}
    return any(changed(read_json(path).get("code", {}), code) for path, code in made_by.items())


def _evaluations(run: Run) -> list[Path]:
    return [path for path in sorted(run.path.glob("*-*.json")) if _kind(path) in EVALUATED_BY]


def _kind(path: Path) -> str:
    return path.stem.partition("-")[0]


def covering_sample(runs: Iterable[tuple[Run, Dataset]]) -> Iterator[tuple[Run, Dataset]]:
    """Runs with every (field, value) of configurations and evaluations that occurs."""
    seen: set[tuple[str, str, str]] = set()
    for run, data in sorted(runs, key=lambda pair: (pair[0].seconds, pair[0].name)):
        if not (settings := set(_settings(run))) <= seen:
            seen |= settings
            yield run, data


def _settings(run: Run) -> Iterator[tuple[str, str, str]]:
    for field, value in run.config.record().items():
        yield "run", field, repr(value)
    for path in _evaluations(run):
        for field, value in read_json(path)["config"].items():
            yield _kind(path), field, repr(value)


def _agrees(run: Run, data: Dataset, again: Path, say: Callable[[str], None]) -> bool:
    """Make the run again, and its evaluations; True if they were compared to the bit.

    Raises: UserError if they do not agree; on another machine, within TOLERANCE.
    """
    say(f"{run.name}: made again")
    record, here = run.record, provenance(run.config.device)
    exact = all(record[key] == here[key] for key in ("versions", "device"))
    kept = [int(name[8:12]) for name in record["files"] if name.startswith("encoder-")]
    made = pretrain(run.config, data, again, kept)
    pairs = {"losses": (run.losses, made.losses)}
    if exact:
        pairs["weights"] = _weights(record), _weights(made.record)
    for path in _evaluations(run):
        stored = read_json(path)
        result = evaluate_again(made, data, stored["kind"], stored["config"])
        pairs[path.name] = unpack_arrays(stored["result"]), result
    for what, (before, after) in pairs.items():
        if not _equal(before, after, 0.0 if exact else TOLERANCE):
            raise UserError(f"{run.name}: its {what} are not what today's code gives; nothing was "
                            "adopted, stale runs are trained anew when asked for")  # fmt: skip
    shutil.rmtree(made.path)
    return exact


def _weights(record: dict) -> dict[str, str]:
    return {name: digest for name, digest in record["files"].items() if name != "history.csv"}


def evaluate_again(run: Run, data: Dataset, kind: str, config: dict) -> dict:
    """The evaluation of a kind by its stored configuration."""
    given = {key: value for key, value in config.items() if key != "views"}
    names = {"probe": "fit_probe", "finetune": "fine_tune", "geometry": "measure_geometry"}
    names |= {"map": "map_in_the_plane", "views": "picture_views"}
    evaluate = getattr(measure, names.get(kind, kind))
    configured = {"probe": ProbeConfig, "finetune": ProbeConfig, "cluster": ClusterConfig}
    if kind in configured:
        return evaluate(run, data, configured[kind](**given))
    return evaluate(run, data, **given)


def _equal(a, b, tolerance: float) -> bool:
    """Of JSON types and arrays; seconds do not count."""
    if isinstance(a, dict):
        keys = a.keys() - {"seconds"}
        return a.keys() == b.keys() and all(_equal(a[k], b[k], tolerance) for k in keys)
    if isinstance(a, list):
        return len(a) == len(b) and all(_equal(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float | int) and tolerance:
        return abs(a - b) <= tolerance * max(1.0, abs(a))
    return bool((a == b).all()) if hasattr(a, "all") else a == b


def _date_forward(path: Path, code: dict[str, str], proof: dict) -> None:
    content = read_json(path)
    if changed(content.get("code", {}), code):
        content["adopted"] = [*content.get("adopted", []), proof]
        write_json(path, {**content, "code": code})
