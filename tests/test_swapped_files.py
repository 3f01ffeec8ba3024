"""Every file of the store copied over every other of its kind: a line, never another's number."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from labreport import measure
from labreport.store import train as store_train
from labreport.store.runs import CHECKPOINT
from labreport.store.train import pretrain
from simclr_core.cluster import ClusterConfig
from simclr_core.evaluate import ProbeConfig

PROBES = [ProbeConfig(labels=(0, 60), epochs=1, epoch=epoch) for epoch in (None, 1)]
KINDS = ("config.json", "provenance.json", "history.csv", "encoder*.safetensors",
         "projection_head.safetensors", "probe-*.json", "knn-*.json", "cluster-*.json")  # fmt: skip


def _make(store: Path, config, data) -> dict[str, object]:
    """Two runs that differ in their seed, with evaluations; returns every number of theirs."""
    numbers = {}
    for seed in (0, 1):
        run = pretrain(replace(config, seed=seed), data, store, [1])
        numbers[f"{seed} losses"] = run.losses
        for probe in PROBES:
            numbers[f"{seed} probe {probe.epoch}"] = measure.fit_probe(run, data, probe)["losses"]
        numbers[f"{seed} knn"] = measure.knn(run, data, (0, 60), 3)["accuracy"]
        clusters = measure.cluster(run, data, ClusterConfig("kmeans", (0, 60), restarts=1))
        numbers[f"{seed} clusters"] = clusters["nmi"]
    return numbers


def test_a_file_copied_over_another_of_its_kind_is_a_line_and_no_number(
    tiny_config, tiny_data, tmp_path, capfd
):
    whole, store = tmp_path / "whole", tmp_path / "store"
    expected = _make(whole, tiny_config, tiny_data)
    assert expected["0 losses"] != expected["1 losses"]
    copied = 0
    for pattern in KINDS:
        for source, target in itertools.permutations(sorted(whole.glob(f"*/{pattern}")), 2):
            if source.read_bytes() == target.read_bytes():
                continue
            shutil.copytree(whole, store)
            shutil.copy(source, store / target.relative_to(whole))
            capfd.readouterr()
            assert _make(store, tiny_config, tiny_data) == expected, (source, target)
            said = capfd.readouterr().err.strip()
            assert said and all("set aside" in line for line in said.splitlines()), (source, target)
            shutil.rmtree(store)
            copied += 1
    assert copied > 30


def test_a_checkpoint_of_another_run_is_a_line_and_no_number(
    tiny_config, tiny_data, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(store_train, "CHECKPOINT_SECONDS", 0.0)

    class Stopped(Exception):
        pass

    def stop(event):
        if event["epoch"] == 2:
            raise Stopped

    expected = pretrain(tiny_config, tiny_data, tmp_path / "whole").losses
    store, folders = tmp_path / "store", []
    for seed in (1, 0):
        with pytest.raises(Stopped):
            pretrain(replace(tiny_config, seed=seed), tiny_data, store, progress=stop)
        folders.append(max(store.glob("tiny-*"), key=lambda path: path.stat().st_mtime_ns))
    shutil.copy(folders[0] / CHECKPOINT, folders[1] / CHECKPOINT)
    capfd.readouterr()
    assert pretrain(tiny_config, tiny_data, store).losses == expected
    assert f"is of {folders[0].name}" in capfd.readouterr().err
