from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from labreport import measure
from labreport.store import pretrain
from simclr_core import cluster as clustering
from simclr_core.cluster import ClusterConfig, cluster, hungarian_match
from simclr_core.errors import UserError

KMEANS = ClusterConfig("kmeans", (0, 120))


@pytest.fixture
def pixels(tiny_data) -> tuple:
    """Features and labels of both splits."""
    splits = tiny_data.train, tiny_data.test
    return tuple((s.images.flatten(1).float().numpy(), s.labels.numpy()) for s in splits)


@pytest.mark.parametrize(
    "config",
    [KMEANS, replace(KMEANS, l2_normalise=True), ClusterConfig("gmm", (0, 120), components=4)],
)
def test_clear_clusters_are_found_and_scored_on_test(config, pixels):
    result = cluster(*pixels, 4, config)
    for score in ("accuracies", "nmi", "ari", "seconds"):
        assert len(result[score]) == 5
    assert max(result["accuracies"]) == max(result["nmi"]) == max(result["ari"]) == 1
    assert result["sizes"] == [10] * 4 and sorted(result["names"]) == [0, 1, 2, 3]
    for name, rows in zip(result["names"], result["shown"], strict=True):
        assert len(rows) == 8 and set(pixels[1][1][rows]) == {name}


@pytest.mark.parametrize("changes", [
    {"method": "kmeans", "l2_normalise": True, "components": 3}, {"method": "kmeans"},
    {"method": "gmm"}, {"method": "gmm", "components": 4},
])  # fmt: skip
def test_each_restart_is_scikit_learns_and_the_best_fit_is_shown(changes):
    """Overlapping clusters, in which every setting moves the scores."""
    draws, labels = np.random.default_rng(2), np.arange(90) % 3
    spread = np.array([[2, 1.5, 1, 0.1, 0.03]])
    x = (draws.normal(size=(90, 5)) @ draws.normal(size=(5, 5)) * spread).astype(np.float32)
    x[:, :2] += labels[:, None]
    config = ClusterConfig(fit=(0, 60), restarts=4, **changes)
    given = (x[:60], labels[:60]), (x[60:], labels[60:])
    found = cluster(*given, 3, config, seed=2)
    if config.l2_normalise:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    fitted, scored = x[:60], x[60:]
    if config.components:
        components = PCA(config.components, svd_solver="covariance_eigh").fit(fitted)
        fitted, scored = components.transform(fitted), components.transform(scored)
    expected, fits = [], []
    for seed in range(8, 12):  # 2 x 4, and on
        if config.method == "gmm":
            model = GaussianMixture(3, covariance_type="full", reg_covar=1e-3, random_state=seed)
            fits.append(model.fit(fitted).lower_bound_)
        else:
            model = KMeans(3, init="k-means++", n_init=1, random_state=seed)
            fits.append(-model.fit(fitted).inertia_)
        expected.append(model.predict(scored))
    scores = [normalized_mutual_info_score(labels[60:], one) for one in expected]
    assert found["nmi"] == pytest.approx(scores)
    best = expected[int(np.argmax(fits))]
    assert found["sizes"] == np.bincount(best, minlength=3).tolist()
    assert found["shown"] == [np.flatnonzero(best == k)[:8].tolist() for k in range(3)]


def test_no_label_reaches_the_fit_and_the_match_uses_the_fitted_images_alone(pixels, monkeypatch):
    """Shuffled test labels change the score and nothing else: not the clusters, not their names."""
    fits, real = [], clustering._fit
    monkeypatch.setattr(
        clustering, "_fit", lambda c, x, k, seed: fits.append(x.shape) or real(c, x, k, seed)
    )
    config, (fitted, (x, labels)) = replace(KMEANS, restarts=1), pixels
    honest, again = (cluster(fitted, (x, y), 4, config) for y in (labels, np.roll(labels, 1)))
    assert again["names"] == honest["names"] and again["sizes"] == honest["sizes"]
    assert again["accuracies"] == [0.0]  # a match on the test labels would have said 1
    assert fits == [(120, 144)] * 2  # training images, features only


def test_hungarian_match_is_the_best_of_all_one_to_one_namings():
    from itertools import permutations

    rng = np.random.default_rng(1)
    labels, found = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    best = max((np.array(p)[found] == labels).sum() for p in permutations(range(4)))
    assert (hungarian_match(found, labels, 4)[found] == labels).sum() == best
    assert hungarian_match(np.array([0, 1, 2]), np.array([2, 0, 1]), 3).tolist() == [2, 0, 1]


def test_each_seed_brings_other_restarts_a_large_one_too(pixels, monkeypatch):
    seeds, real = [], clustering._fit
    monkeypatch.setattr(
        clustering, "_fit", lambda c, x, k, seed: seeds.append(seed) or real(c, x, k, seed)
    )
    for seed in (0, 1, 10**10):
        cluster(*pixels, 4, replace(KMEANS, restarts=2), seed)
    assert seeds[:4] == [0, 1, 2, 3] and all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "kmean"}, "method is 'kmean', expected 'kmeans' or 'gmm'"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"components": -1}, "components must be at least 0, got -1"),
        ({"components": 145}, "components 145 are more than the 120 images"),
        ({"fit": (0, 3)}, r"fit \(0, 3\) has fewer images than there are classes, 4"),
        ({"fit": (0, 500)}, r"fit \(0, 500\) is not a range within the 120"),
    ],
)
def test_what_cannot_be_clustered_is_named(changes, message, run, tiny_data):
    with pytest.raises(UserError, match=message):
        measure.cluster(run, tiny_data, replace(KMEANS, **changes))


def test_a_stored_runs_clusters_come_with_pictures_black_where_a_cluster_is_small(
    tiny_config, tiny_data, tmp_path
):
    untrained = replace(tiny_config, encoder="pixels", objective="none")
    few = replace(tiny_data, test=tiny_data.test.part(0, 30))  # 8 of two classes, 7 of two
    result = measure.cluster(pretrain(untrained, few, tmp_path), few, KMEANS)
    assert max(result["accuracies"]) == 1 and sorted(result["sizes"]) == [7, 7, 8, 8]
    for size, name, pictures in zip(
        result["sizes"], result["names"], result["pictures"], strict=True
    ):
        of_class = few.test.images[few.test.labels == name].numpy()
        assert (pictures[:size] == of_class).all() and not pictures[size:].any()
