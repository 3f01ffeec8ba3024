"""The results JSON: what goes in comes out, and nothing that is not a number goes in."""

import json

import numpy as np
import pytest

from labreport.results import Results, load_results
from simclr_core.errors import UserError


@pytest.fixture
def results():
    data = {
        "name": "mnist",
        "source": "files",
        "fingerprint": "ab",
        "train": 4,
        "test": 2,
        "stand_in_for": "",
    }
    made = Results("01_mnist_study", {"seeds": [0, 1]}, data=[data], reduced="", runs=["b", "a", "b"])
    made.measure("mnist.r2.hidden.1part", {1: 0.1 + 0.2, 0: 1 / 3}, "fraction", "test accuracy", "fig-accuracy")
    made.series("mnist.r2.loss", {0: [4.9, 4.6]}, "nats", "loss per epoch")
    return made


def test_floats_come_back_to_the_bit_and_seeds_as_integers(results, tmp_path):
    results.write(tmp_path)
    content = load_results(tmp_path)["01_mnist_study"]
    assert content["measures"]["mnist.r2.hidden.1part"] == {
        "values": {0: 1 / 3, 1: 0.1 + 0.2},
        "unit": "fraction",
        "what": "test accuracy",
        "figure": "fig-accuracy",
    }
    assert content["series"]["mnist.r2.loss"]["values"] == {0: [4.9, 4.6]}
    assert content["data"][0]["name"] == "mnist"
    assert content["parameters"] == {"seeds": [0, 1]}
    assert content["runs"] == ["a", "b"]


def test_the_same_results_make_the_same_bytes(results, tmp_path):
    assert results.write(tmp_path / "a").read_bytes() == results.write(tmp_path / "b").read_bytes()


def test_numpy_numbers_are_written_as_plain_ones(tmp_path):
    results = Results("05_clustering_baseline", {})
    results.measure("clusters.kmeans.h.nmi", {np.int64(3): np.float64(0.5)}, "", "NMI")
    results.write(tmp_path)
    assert load_results(tmp_path)["05_clustering_baseline"]["measures"]["clusters.kmeans.h.nmi"]["values"] == {3: 0.5}


def test_a_measures_own_setting_and_reduction_come_back_and_others_have_none(results, tmp_path):
    results.measure("a", {0: 1.0}, "", "", setting={"images": 5, "pflop": 0.1}, reduced="")
    results.series("b", {0: [1.0]}, "", "", setting={"epochs": 2})
    results.write(tmp_path)
    content = load_results(tmp_path)["01_mnist_study"]
    entry = content["measures"]["a"]
    assert (entry["setting"], entry["reduced"]) == ({"images": 5, "pflop": 0.1}, "")
    assert content["series"]["b"]["setting"] == {"epochs": 2}
    assert "reduced" not in content["series"]["b"]
    assert not {"setting", "reduced"} & content["series"]["mnist.r2.loss"].keys()
    with pytest.raises(ValueError, match=r"\['widths'\]: expected of images, width"):
        results.measure("c", {0: 1.0}, "", "", setting={"widths": 2})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_refused_with_key_and_seed(results, value):
    with pytest.raises(ValueError, match=r"mnist\.x is -?(nan|inf) for seed 2"):
        results.measure("mnist.x", {2: value}, "fraction", "")
    with pytest.raises(ValueError, match=r"mnist\.y is -?(nan|inf) for seed 2"):
        results.series("mnist.y", {2: [1.0, value]}, "nats", "")


def test_a_key_is_recorded_once(results):
    with pytest.raises(ValueError, match=r"mnist\.r2\.loss is recorded twice"):
        results.measure("mnist.r2.loss", {0: 1.0}, "nats", "")


@pytest.mark.parametrize("values", [{}, {0: []}])
def test_a_key_without_a_value_is_refused(results, values):
    with pytest.raises(ValueError, match=r"mnist\.z has no value"):
        results.series("mnist.z", values, "nats", "")


def test_writing_leaves_no_temporary_file(results, tmp_path):
    results.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["01_mnist_study.json"]


def test_a_folder_without_results_gives_none(tmp_path):
    assert load_results(tmp_path) == {}
    assert load_results(tmp_path / "absent") == {}


def _edited(text, **changes):
    return json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace("4.9", "NaN"),
        lambda text: text.replace("4.9", "4.8"),
        lambda text: _edited(text, measures=None),
    ],
)
def test_a_damaged_file_is_named_in_one_line(results, tmp_path, damage):
    path = results.write(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=r"01_mnist_study\.json.*run the notebook again$") as caught:
        load_results(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_under_another_notebooks_name_is_refused(results, tmp_path):
    results.write(tmp_path).rename(tmp_path / "02_cifar_study.json")
    with pytest.raises(UserError, match="is about 01_mnist_study"):
        load_results(tmp_path)
