"""Seeded values as notebooks take them apart, and runs on several devices."""

import json
from dataclasses import replace

import pytest

from labreport.study import Lab, after, mean_of, pick, pretrain_on
from simclr_core.data import dataset_from_record, load_dataset
from simclr_core.errors import DataNotFound, UserError
from simclr_core.pretrain import PretrainConfig


def test_after_takes_the_value_of_an_epoch_counted_from_one():
    assert after({0: [0.1, 0.2, 0.3], 1: [0.4, 0.5, 0.6]}, 2) == {0: 0.2, 1: 0.5}


def test_pick_and_mean_go_seed_by_seed():
    results = {0: {"a": [1.0, 3.0]}, 1: {"a": [5.0]}}
    assert pick(results, "a") == {0: [1.0, 3.0], 1: [5.0]}
    assert mean_of(results, "a") == {0: 2.0, 1: 5.0}


CONFIG = PretrainConfig(dataset="digits", images=(0, 64), augmentation="digits", batch_size=32, epochs=2)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMCLR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LABREPORT_PROGRESS", str(tmp_path / "progress"))
    return Lab("02_cifar_study", {})


@pytest.mark.slow
def test_a_run_on_two_devices_is_trained_by_two_processes_and_read_from_the_store(lab, tmp_path, capsys):
    data = load_dataset("digits")
    for state in ("not in the store before", "found in the store"):
        run = lab.pretrain({"ours": CONFIG}, [0], data, devices=2)["ours"][0]
        assert capsys.readouterr().out == f"ours, seed 0: {run.name}, {state}\n"
    assert run.record["processes"] == [{"count": 2, "batch_norm_sync": True}]
    events = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    assert [(event["run"], event["epoch"]) for event in events] == [(run.name, 1), (run.name, 2)]


@pytest.mark.slow
def test_what_stops_a_run_on_two_devices_is_one_line(lab):
    config = replace(CONFIG)
    object.__setattr__(config, "epochs", 0)
    with pytest.raises(UserError, match=r"^digits-.* on 2 processes: .*run.json: epochs must be at least 1, got 0$"):
        pretrain_on(2, config, lab.store)


def test_stored_runs_and_recorded_data_need_no_processes(lab, monkeypatch):
    data = load_dataset("digits")
    run = lab.pretrain({"ours": CONFIG}, [0], data)["ours"][0]
    monkeypatch.setattr("subprocess.Popen", None)
    assert lab.pretrain({"ours": CONFIG}, [0], data, devices=2)["ours"][0].losses == run.losses
    with pytest.raises(DataNotFound, match="stored runs only"):
        lab.pretrain({"ours": CONFIG}, [1], dataset_from_record(run.record["data"]), devices=2)
