"""Clustering without labels, on pixels (R2's baseline) or on h: fitted on train, scored on test.

Shape letters: N images, D features, K clusters (as many as classes).
"""

import time
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import normalize

from simclr_core.data import Dataset
from simclr_core.errors import UserError
from simclr_core.evaluate import features, split_of
from simclr_core.runs import Run, check_types, config_record, pack_array

PICTURES = 8  # test images kept of each cluster, for the report
GMM_RIDGE = 1e-3  # added to the covariances' diagonals: constant border pixels have no variance (ours)


@dataclass(frozen=True)
class ClusterConfig:
    """One clustering method on the features of a run (the run with encoder "pixels" gives the images)."""

    method: str  # kmeans, gmm (full covariance)
    fit: tuple[int, int]  # range of training images it is fitted on
    restarts: int = 5  # independent starts, each scored; other seeds for each seed of the run
    components: int = 0  # principal components kept first; 0: all features
    l2_normalise: bool = False  # features to unit length first (for h: k-means then compares angles)

    def __post_init__(self) -> None:
        check_types(self)
        if self.method not in ("kmeans", "gmm"):
            raise UserError(f"clustering method {self.method!r} is unknown; known are kmeans, gmm")
        for field, least in {"restarts": 1, "components": 0}.items():
            if getattr(self, field) < least:
                raise UserError(f"{field} must be at least {least}, got {getattr(self, field)}")


def cluster(run: Run, data: Dataset, config: ClusterConfig) -> dict:
    """Cluster the run's features into as many clusters as there are classes; stored in the run's folder.

    The labels play no part in the fit. Clusters are named by the Hungarian match on the *training* labels, so no
    test label is used before the score.
    Returns: accuracies, nmi, ari, seconds (one value a restart; seconds without the features), and of the restart
        with the best fit (inertia or likelihood): names (class of each cluster), sizes (test images), pictures
        (packed uint8 (K, PICTURES, S, S, C), zeros where a cluster is smaller).
    """
    return run.evaluation("cluster", config_record(config), data, lambda: _cluster(run, data, config))


def _cluster(run: Run, data: Dataset, config: ClusterConfig) -> dict:
    classes = len(data.class_names)
    labels, labels_test = split_of(data, config.fit, "fit").labels.numpy(), data.test.labels.numpy()
    x, x_test = _scaled_features(run, data, config)
    result = {"accuracies": [], "nmi": [], "ari": [], "seconds": []}
    best = -np.inf
    for seed in ((run.config.seed * config.restarts + k) % 2**32 for k in range(config.restarts)):
        started = time.perf_counter()
        model = _fit(config, x, classes, seed)
        found, found_test = model.predict(x), model.predict(x_test)
        result["seconds"].append(round(time.perf_counter() - started, 3))
        names = hungarian_match(found, labels, classes)
        result["accuracies"].append(float((names[found_test] == labels_test).mean()))
        result["nmi"].append(float(normalized_mutual_info_score(labels_test, found_test)))
        result["ari"].append(float(adjusted_rand_score(labels_test, found_test)))
        fit = model[-1].lower_bound_ if config.method == "gmm" else -model[-1].inertia_
        if fit > best:
            best = fit
            result.update(names=names.tolist(), sizes=np.bincount(found_test, minlength=classes).tolist(),
                          pictures=pack_array(_pictures(found_test, data, classes)))  # fmt: skip
    return result


def _scaled_features(run: Run, data: Dataset, config: ClusterConfig) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) of the fitted range and of the test split, float32."""
    x, x_test = (features(run, data, part)[0].cpu().numpy() for part in (config.fit, None))
    if config.l2_normalise:
        x, x_test = normalize(x), normalize(x_test)
    if config.components > min(x.shape):
        raise UserError(f"components {config.components} are more than the {len(x)} images fitted on or the "
                        f"{x.shape[1]} features of {run.name}")  # fmt: skip
    if len(x) < len(data.class_names):
        raise UserError(f"fit {config.fit} has fewer images than {data.name} has classes, {len(data.class_names)}")
    return x, x_test


def _fit(config: ClusterConfig, x: np.ndarray, clusters: int, seed: int) -> Pipeline:
    """Principal components, if any, and the clustering: both belong to the method, and to its time."""
    if config.method == "kmeans":
        model = KMeans(clusters, n_init=1, random_state=seed)  # k-means++ start
    else:
        model = GaussianMixture(clusters, covariance_type="full", reg_covar=GMM_RIDGE, random_state=seed)
    steps = [PCA(config.components, svd_solver="covariance_eigh")] if config.components else []
    return make_pipeline(*steps, model).fit(x)


def hungarian_match(found: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The one-to-one naming of clusters by classes that most images agree with; entry k is cluster k's class.

    Args: found, labels: cluster and class of each image, int (N,), both in 0 ... classes - 1.
    Source: Kuhn 1955, through scipy's linear_sum_assignment.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (found, labels), 1)
    clusters, names = linear_sum_assignment(counts, maximize=True)
    return names[np.argsort(clusters)]


def _pictures(found: np.ndarray, data: Dataset, classes: int) -> np.ndarray:
    images = data.test.images
    out = np.zeros((classes, PICTURES, *images.shape[1:]), np.uint8)
    for k in range(classes):
        chosen = images[np.flatnonzero(found == k)[:PICTURES]]
        out[k, : len(chosen)] = chosen.numpy()
    return out
