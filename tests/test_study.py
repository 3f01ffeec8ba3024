"""Seeded values as notebooks take them apart, and runs on several devices."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import torchvision

from labreport.measure import fit_probe
from labreport.notebook.study import (
    Lab,
    after,
    few_labels,
    loading_code,
    mean_of,
    mean_of_draws,
    per_class,
    pick,
    pretrain_on,
)
from labreport.store import pretrain
from labreport.store.identity import label
from labreport.store.recorded import dataset_from_record
from simclr_core.config import PretrainConfig
from simclr_core.data import Dataset, Split, load_dataset
from simclr_core.errors import DataNotFound, StoreError, UserError
from simclr_core.evaluate import ProbeConfig


def test_a_run_keeps_the_encoders_that_other_notebooks_want(tiny_config, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMCLR_RUNS", str(tmp_path))
    name = Lab("01", {}).pretrain({"a": tiny_config}, [0], tiny_data)["a"][0].name
    monkeypatch.setenv("LABREPORT_KEEP", json.dumps({name: [2], "another": [1]}))
    Lab("02", {}).pretrain({"a": tiny_config}, [0], tiny_data, keep_epochs=[1])
    assert sorted(path.name for path in (tmp_path / name).glob("encoder-*")) == [
        "encoder-0001.safetensors", "encoder-0002.safetensors"]  # fmt: skip


def test_after_takes_the_value_of_an_epoch_counted_from_one():
    assert after({0: [0.1, 0.2, 0.3], 1: [0.4, 0.5, 0.6]}, 2) == {0: 0.2, 1: 0.5}


def test_pick_and_mean_go_seed_by_seed():
    results = {0: {"a": [1.0, 3.0]}, 1: {"a": [5.0]}}
    assert pick(results, "a") == {0: [1.0, 3.0], 1: [5.0]}
    assert mean_of(results, "a") == {0: 2.0, 1: 5.0}


def test_a_fraction_of_the_labels_is_a_whole_number_of_each_class():
    assert [per_class(fraction, 5000, 10) for fraction in (0.01, 0.1, 1.0)] == [5, 50, 0]
    for fraction, message in ((0.0001, "less than one of each of 10 classes"), (1.5, "at most 1"), (0, "more than 0")):
        with pytest.raises(UserError, match=message):
            per_class(fraction, 5000, 10)


def test_few_labels_gives_every_seed_and_draw_and_all_labels_once(tiny_config, tiny_data, tmp_path):
    runs, asked = {0: pretrain(tiny_config, tiny_data, tmp_path)}, []

    def evaluation(run, data, config):
        asked.append(config)
        return fit_probe(run, data, config)

    config = ProbeConfig(labels=(0, 120), batch_size=10)
    found = few_labels(evaluation, runs, config, tiny_data, [0.1, 1.0], 2, steps=24)
    assert list(found) == [12, 120] and list(found[12]) == [(0, 0), (0, 1)] and list(found[120]) == [(0, 0)]
    assert [(c.per_class, c.draw, c.epochs) for c in asked] == [(3, 0, 12), (3, 1, 12), (0, 0, 2)]  # 2 and 12 batches


def test_draws_are_averaged_within_each_seed():
    assert mean_of_draws({(0, 0): 0.25, (0, 1): 0.75, (1, 0): 0.5}) == {0: 0.5, 1: 0.5}


@pytest.mark.parametrize(
    ("encoder", "width"), [("resnet18", 1.0), ("resnet18", 0.25), ("vit", 0.25), ("mnist_cnn", 1.0)]
)
def test_the_code_shown_for_an_exported_encoder_loads_it(encoder, width, tmp_path, monkeypatch):
    colour = Split(torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8), torch.arange(8) % 2)
    data = Dataset("made", colour, colour, ("a", "b"), (0.4,) * 3, (0.2,) * 3, "made for the test")
    run = pretrain(PretrainConfig("made", (0, 8), encoder=encoder, width=width, objective="none"), data, tmp_path)
    monkeypatch.setenv("LABREPORT_OUTPUT", str(tmp_path))
    assert "beside this report" in Lab("10", {}).export_encoder(run, "your_images")
    monkeypatch.chdir(tmp_path / "encoders")
    assert len(loading_code(run).splitlines()) == 3
    names = {"torchvision": torchvision, "nn": torch.nn, "safetensors": safetensors}
    exec(loading_code(run), names)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(names["encoder"].eval()(x), run.load_encoder()(x), rtol=0, atol=0)


def test_an_encoder_that_came_without_weights_is_said_to_be_missing(tiny_config, tiny_data, tmp_path, monkeypatch):
    run = pretrain(tiny_config, tiny_data, tmp_path)
    (run.path / "encoder.safetensors").unlink()
    monkeypatch.setenv("LABREPORT_OUTPUT", str(tmp_path))
    assert "is not here" in Lab("10", {}).export_encoder(run, "x") and not (tmp_path / "encoders").exists()


CONFIG = PretrainConfig(dataset="digits", images=(0, 64), augmentation="digits", batch_size=32, epochs=2)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMCLR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LABREPORT_PROGRESS", str(tmp_path / "progress"))
    return Lab("02_cifar_study", {})


@pytest.mark.slow
def test_a_run_on_two_devices_is_trained_by_two_processes_and_read_from_the_store(lab, tmp_path, capsys):
    data = load_dataset("digits")
    for found in (0, 1):
        run = lab.pretrain({"ours": CONFIG}, [0], data, devices=2)["ours"][0]
        assert capsys.readouterr().out == f"ours: {label(CONFIG)}, seed 0; {found} of 1 found in the store\n"
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


def test_a_damaged_encoder_is_not_said_to_be_missing(tiny_config, tiny_data, tmp_path, monkeypatch):
    run = pretrain(tiny_config, tiny_data, tmp_path)
    (run.path / "encoder.safetensors").write_bytes(b"x")
    monkeypatch.setenv("LABREPORT_OUTPUT", str(tmp_path))
    with pytest.raises(StoreError, match="damaged|holds no weights|is not what"):
        Lab("10", {}).export_encoder(run, "x")
