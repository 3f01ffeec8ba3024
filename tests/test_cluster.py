from dataclasses import replace

import numpy as np
import pytest
import torch

from simclr_core import cluster as cluster_module
from simclr_core.cluster import ClusterConfig, cluster, hungarian_match
from simclr_core.data import Split
from simclr_core.errors import UserError
from simclr_core.pretrain import pretrain
from simclr_core.runs import unpack_array


@pytest.fixture
def pixels(tiny_config, tiny_data, tmp_path):
    return pretrain(replace(tiny_config, encoder="pixels", objective="none"), tiny_data, tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        ClusterConfig("kmeans", (0, 120)),
        ClusterConfig("kmeans", (0, 120), l2_normalise=True),
        ClusterConfig("gmm", (0, 120), components=4),
    ],
)
def test_clear_clusters_are_found_and_scored_on_test(config, pixels, tiny_data):
    result = cluster(pixels, tiny_data, config)
    for score in ("accuracies", "nmi", "ari", "seconds"):
        assert len(result[score]) == 5
    assert max(result["accuracies"]) == max(result["nmi"]) == max(result["ari"]) == 1
    assert sum(result["sizes"]) == 40 and sorted(result["names"]) == [0, 1, 2, 3]
    assert unpack_array(result["pictures"]).shape == (4, 8, 12, 12, 1)


def test_neither_labels_nor_test_labels_reach_the_fit_and_the_match_uses_train_labels(pixels, tiny_data, monkeypatch):
    """Shuffled test labels change the score and nothing else: not the clusters, not their names."""
    config = ClusterConfig("kmeans", (0, 120), restarts=1)
    honest = cluster(pixels, tiny_data, config)
    shuffled = replace(tiny_data, test=Split(tiny_data.test.images, tiny_data.test.labels.roll(1)))
    again = cluster_module._cluster(pixels, shuffled, config)
    assert again["names"] == honest["names"] and again["sizes"] == honest["sizes"]
    assert again["accuracies"] == [0.0]  # a match on the test labels would have said 1
    fits = []
    real = cluster_module._fit
    monkeypatch.setattr(cluster_module, "_fit", lambda c, x, k, seed: fits.append(x.shape) or real(c, x, k, seed))
    cluster_module._cluster(pixels, tiny_data, config)
    assert fits == [(120, 144)]  # training images, features only


def test_hungarian_match_is_the_best_of_all_one_to_one_namings():
    from itertools import permutations

    rng = np.random.default_rng(1)
    labels, found = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    best = max((np.array(p)[found] == labels).sum() for p in permutations(range(4)))
    assert (hungarian_match(found, labels, 4)[found] == labels).sum() == best
    assert hungarian_match(np.array([0, 1, 2]), np.array([2, 0, 1]), 3).tolist() == [2, 0, 1]


def test_bad_configuration_is_named():
    with pytest.raises(UserError, match="method 'kmean' is unknown"):
        ClusterConfig("kmean", (0, 10))
    with pytest.raises(UserError, match="restarts must be at least 1, got 0"):
        ClusterConfig("gmm", (0, 10), restarts=0)


def test_pictures_of_a_small_cluster_are_padded_with_black(tiny_data):
    found = np.zeros(40, int)
    found[0] = 1
    pictures = cluster_module._pictures(found, tiny_data, 4)
    assert pictures[1, 1:].max() == 0 and np.array_equal(pictures[1, 0], tiny_data.test.images[0].numpy())
    assert torch.equal(torch.from_numpy(pictures[0]), tiny_data.test.images[1:9])


def test_each_seed_of_a_run_brings_other_restarts(pixels, tiny_config, tiny_data, tmp_path, monkeypatch):
    seeds = []
    real = cluster_module._fit
    monkeypatch.setattr(cluster_module, "_fit", lambda c, x, k, seed: seeds.append(seed) or real(c, x, k, seed))
    second = pretrain(replace(pixels.config, seed=1), tiny_data, tmp_path)
    for run in (pixels, second):
        cluster(run, tiny_data, ClusterConfig("kmeans", (0, 120), restarts=2))
    assert seeds == [0, 1, 2, 3]


def test_ranges_and_components_beyond_the_data_are_named(pixels, tiny_data):
    with pytest.raises(UserError, match=r"fit \(0, 500\) is not a range"):
        cluster(pixels, tiny_data, ClusterConfig("kmeans", (0, 500)))
    with pytest.raises(UserError, match="components 145 are more than the 120 images"):
        cluster(pixels, tiny_data, ClusterConfig("gmm", (0, 120), components=145))
    with pytest.raises(UserError, match=r"fit \(0, 3\) has fewer images than tiny has classes, 4"):
        cluster(pixels, tiny_data, ClusterConfig("kmeans", (0, 3)))
    with pytest.raises(UserError, match="components must be at least 0, got -1"):
        ClusterConfig("kmeans", (0, 120), components=-1)


def test_a_large_seed_clusters_too(pixels, tiny_data, tmp_path):
    run = pretrain(replace(pixels.config, seed=10**9), tiny_data, tmp_path)
    assert len(cluster(run, tiny_data, ClusterConfig("kmeans", (0, 120), restarts=5))["accuracies"]) == 5
