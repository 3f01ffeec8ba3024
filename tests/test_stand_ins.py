"""Data sets looked up before anything runs, and what takes the place of missing ones."""

import os

import pytest

from labreport.run import stand_ins
from labreport.run.stand_ins import banner, data_environment, settle_data
from simclr_core.data import load_dataset
from simclr_core.errors import DataNotFound, UserError

DEFAULTS = {"dataset": "digits", "stand_in_for": ""}


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Only what needs no file is found."""

    def load(name):
        if name == "mnist":
            raise DataNotFound("mnist not found: looked in data; put it there")
        return load_dataset(name)

    monkeypatch.setattr(stand_ins, "load_dataset", load)


def settle(tmp_path, parameters, stand_ins=None, require_real=False):
    return settle_data(parameters, dict.fromkeys(parameters, DEFAULTS), stand_ins or {}, require_real, tmp_path)


def test_a_missing_data_set_is_replaced_in_every_notebook_that_asks_for_it(no_network, tmp_path):
    settled = settle(tmp_path, {"a": {"dataset": "mnist"}, "b": {}, "c": {"dataset": "mnist"}}, {"mnist": "digits"})
    replaced = {"dataset": "digits", "stand_in_for": "mnist"}
    assert settled.parameters == {"a": replaced, "b": {}, "c": replaced}
    assert settled.used["a"] == settled.used["b"] == settled.used["c"] and len(settled.used["a"]) == 1
    assert "mnist was not found, digits stands in its place" in banner(settled.parameters)


def test_a_notebook_may_have_several_data_sets_each_with_its_stand_in(no_network, tmp_path):
    defaults = {**DEFAULTS, "mnist_dataset": "digits", "mnist_stand_in_for": ""}
    settled = settle_data({"a": {"mnist_dataset": "mnist"}}, {"a": defaults}, {"mnist": "shapes"}, False, tmp_path)
    assert settled.parameters == {"a": {"mnist_dataset": "shapes", "mnist_stand_in_for": "mnist"}}
    assert [data.name for data in settled.used["a"]] == ["digits", "shapes"]
    assert "mnist was not found, shapes stands in its place" in banner(settled.parameters)


def test_real_data_need_no_banner(tmp_path):
    settled = settle(tmp_path, {"a": {}}, {"mnist": "digits"})
    assert settled.parameters == {"a": {}}
    assert banner(settled.parameters) is None


@pytest.mark.parametrize(("replacements", "require_real"), [({"mnist": "digits"}, True), ({}, False)])
def test_a_missing_data_set_stops_where_real_ones_are_required_or_none_can_stand_in(
    no_network, tmp_path, replacements, require_real
):
    with pytest.raises(DataNotFound, match="mnist not found: looked in data"):
        settle(tmp_path, {"a": {"dataset": "mnist"}}, replacements, require_real)


def test_damaged_data_are_never_replaced(monkeypatch, tmp_path):
    def load(name):
        raise UserError("mnist is damaged")

    monkeypatch.setattr(stand_ins, "load_dataset", load)
    with pytest.raises(UserError, match="damaged"):
        settle(tmp_path, {"a": {"dataset": "mnist"}}, {"mnist": "digits"})


def test_a_folder_of_images_is_named_by_its_absolute_path(monkeypatch, tmp_path):
    monkeypatch.setattr(stand_ins, "load_dataset", lambda name: name)
    monkeypatch.chdir(tmp_path)
    assert settle(tmp_path, {"a": {"dataset": "folder:mine"}}).used == {"a": [f"folder:{tmp_path}/mine"]}
    assert settle(tmp_path, {"a": {"dataset": "stream:mine@16"}}).used == {"a": [f"stream:{tmp_path}/mine@16"]}


def test_folders_are_absolute_and_in_the_order_given_environment_root(monkeypatch, tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "named").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIMCLR_DATA", "named")
    folders = data_environment("given", tmp_path)["SIMCLR_DATA"].split(os.pathsep)
    assert folders == [str(tmp_path / name) for name in ("given", "named", "data")]


def test_a_data_folder_that_does_not_exist_is_named(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="--data: data folder '/nowhere' does not exist"):
        data_environment("/nowhere", tmp_path)
    monkeypatch.setenv("SIMCLR_DATA", "/nowhere")
    with pytest.raises(UserError, match=r"\$SIMCLR_DATA: data folder '/nowhere' does not exist"):
        data_environment(None, tmp_path)
