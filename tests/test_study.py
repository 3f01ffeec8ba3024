"""Seeded values as notebooks take them apart."""

import json

from labreport.study import Lab, after, mean_of, pick


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
