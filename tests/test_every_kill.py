"""SIGKILL before a file change of a call, then the same call: the undisturbed numbers and tree.

With LABREPORT_LONG=1 before every file change, else before some of them. Each attempt is a process
forked from this one, which itself never trains.
"""

import csv
import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from labreport import measure
from labreport.store import train as store_train
from labreport.store.files import read_json, write_json
from labreport.store.train import pretrain
from simclr_core.cluster import ClusterConfig
from simclr_core.evaluate import ProbeConfig

EVERY = 1 if os.environ.get("LABREPORT_LONG") else 9  # of the points
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
PROBE = ProbeConfig(labels=(0, 60), epochs=2)


def _evaluations():
    at_epoch = ProbeConfig(labels=(0, 60), epochs=2, epoch=1)
    behind = ProbeConfig(labels=(0, 60), epochs=2, on="z")
    return {
        "probe": lambda run, data: measure.fit_probe(run, data, PROBE),
        "probe of a kept epoch": lambda run, data: measure.fit_probe(run, data, at_epoch),
        "probe on z": lambda run, data: measure.fit_probe(run, data, behind),
        "finetune": lambda run, data: measure.fine_tune(run, data, PROBE),
        "knn": lambda run, data: measure.knn(run, data, (0, 60), 3),
        "cluster": lambda run, data: measure.cluster(run, data, ClusterConfig("kmeans", (0, 60))),
        "geometry": lambda run, data: measure.measure_geometry(run, data, 20),
        "map": lambda run, data: measure.map_in_the_plane(run, data, 20, "pca"),
        "neighbours": lambda run, data: measure.neighbours(run, data, (0, 60), 2),
        "views": lambda run, data: measure.picture_views(run, data, 2, 1),
    }


def _pretrainings():
    """Name -> what is in the store before, and the call."""
    nothing = lambda store, config, data: None  # noqa: E731
    stored = lambda store, config, data: pretrain(config, data, store)  # noqa: E731

    def by_other_code(store, config, data):
        path = pretrain(config, data, store).path / "provenance.json"
        record = read_json(path)
        write_json(path, {**record, "code": {**record["code"], "simclr_core.loss": "other"}})

    def without_weights(store, config, data):
        run = pretrain(config, data, store)
        measure.fit_probe(run, data, PROBE)
        for path in run.path.glob("*.safetensors"):
            path.unlink()

    def probe_anew(store, config, data):
        measure.knn(pretrain(config, data, store), data, (0, 60), 3)

    keeping = lambda store, config, data: pretrain(config, data, store, [1, 2])  # noqa: E731
    return {
        "fresh": (nothing, stored),
        "with kept epochs": (nothing, keeping),
        "kept epochs afterwards": (stored, keeping),
        "by other code": (by_other_code, stored),
        "without weights": (without_weights, probe_anew),
    }


def _scenarios():
    yield from _pretrainings().items()
    kept = _pretrainings()["with kept epochs"][1]
    for name, evaluate in _evaluations().items():
        def call(store, config, data, evaluate=evaluate):
            evaluate(pretrain(config, data, store, [1, 2]), data)  # fmt: skip

        yield name, (kept, call)


def _forked(work) -> int:
    """Do the work in a process of its own; returns how it ended (os.waitpid's status)."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            store_train.CHECKPOINT_SECONDS = 0.0
            work()
            status = 0
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def _killed_at(point: int, store: Path):
    """An audit hook that ends this process before the file change number `point` in the store."""
    count = itertools.count(1)

    def changes(event: str, given: tuple) -> bool:
        if event == "open":
            path, mode, flags = given
            if not (set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)):
                return False
        elif event not in CHANGES:
            return False
        return str(given[0]).startswith(str(store))

    def hook(event: str, given: tuple) -> None:
        if changes(event, given) and next(count) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _tree(store: Path) -> dict[str, object]:
    """File -> content, but for times."""
    return {str(path.relative_to(store)): _content(path) for path in sorted(store.rglob("*"))}


def _content(path: Path) -> object:
    if path.is_dir():
        return "folder"
    if path.suffix == ".csv":
        rows = csv.DictReader(path.read_text().splitlines())
        return [(row["epoch"], row["loss"], row["lr"]) for row in rows]
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text()))
    return path.read_bytes()


def _without_times(value):
    if isinstance(value, dict):
        times = {"seconds", "sha256", "history.csv", "processes", "commit", "dirty"}
        return {k: _without_times(v) for k, v in value.items() if k not in times}
    return value


@pytest.mark.slow
@pytest.mark.parametrize("name", dict(_scenarios()))
def test_a_call_killed_before_a_file_change_ends_as_undisturbed_when_repeated(
    name, tiny_config, tiny_data, tmp_path
):
    prepare, call = dict(_scenarios())[name]
    before, whole, store = tmp_path / "before", tmp_path / "whole", tmp_path / "store"
    before.mkdir()
    assert _forked(lambda: prepare(before, tiny_config, tiny_data)) == 0

    def run(point: int = 0) -> int:
        def work():
            _killed_at(point, store)
            call(store, tiny_config, tiny_data)

        return _forked(work)

    shutil.copytree(before, store)
    assert run() == 0
    store.rename(whole)
    expected, bad, points = _tree(whole), [], 0
    for point in itertools.count(1, EVERY):
        shutil.copytree(before, store)
        if run(point) == 0:
            break
        points += 1
        if run() != 0 or _tree(store) != expected:
            differing = [k for k in {**expected, **_tree(store)} if _tree(store).get(k) != expected.get(k)]
            bad.append((point, differing))
        shutil.rmtree(store)
    print(f"{name}: {points} points")
    assert points and not bad
