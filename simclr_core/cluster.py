"""Clustering without labels, on pixels (R2's baseline) or on h: fitted on train, scored on test.

Shape letters: N, M images, D features, K clusters (as many as classes).
"""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import normalize

from simclr_core.checked import Checked, Range, at_least
from simclr_core.errors import UserError

SHOWN = 8  # test images named of each cluster, for the report
GMM_RIDGE = 1e-3  # added to the covariances' diagonals: border pixels have no variance (ours)


@dataclass(frozen=True)
class ClusterConfig(Checked):
    """One clustering method on features (those of the encoder "pixels" are the images)."""

    method: Literal["kmeans", "gmm"]  # gmm: full covariance
    fit: Range  # of the training images it is fitted on
    restarts: at_least(1) = 5  # independent starts, each scored; others for each seed of the run
    components: at_least(0) = 0  # principal components kept first; 0: all features
    l2_normalise: bool = False  # features to unit length first (k-means then compares angles)


def cluster(
    fitted: tuple[np.ndarray, np.ndarray],
    scored: tuple[np.ndarray, np.ndarray],
    classes: int,
    config: ClusterConfig,
    seed: int = 0,
) -> dict:
    """Cluster features into as many clusters as there are classes.

    The labels play no part in the fit. Clusters are named by the Hungarian match on the *fitted*
    images' labels, so no test label is used before the score.
    Args: fitted, scored: features float32 (N, D) and (M, D), and their labels.
    Returns: accuracies, nmi, ari, seconds (one value a restart), and of the restart with the best
        fit (inertia or likelihood): names (class of each cluster), sizes and shown (the number of
        scored images in each cluster, and the rows of the first SHOWN).
    """
    (x, labels), (x_scored, scored_labels) = fitted, scored
    if config.l2_normalise:
        x, x_scored = normalize(x), normalize(x_scored)
    _check(x, classes, config)
    result = {"accuracies": [], "nmi": [], "ari": [], "seconds": []}
    best = -np.inf
    for k in range(config.restarts):
        started = time.perf_counter()
        model = _fit(config, x, classes, (seed * config.restarts + k) % 2**32)
        found, found_scored = model.predict(x), model.predict(x_scored)
        result["seconds"].append(round(time.perf_counter() - started, 3))
        names = hungarian_match(found, labels, classes)
        result["accuracies"].append(float((names[found_scored] == scored_labels).mean()))
        result["nmi"].append(float(normalized_mutual_info_score(scored_labels, found_scored)))
        result["ari"].append(float(adjusted_rand_score(scored_labels, found_scored)))
        fit = model[-1].lower_bound_ if config.method == "gmm" else -model[-1].inertia_
        if fit > best:
            best, sizes = fit, np.bincount(found_scored, minlength=classes)
            shown = [np.flatnonzero(found_scored == k)[:SHOWN].tolist() for k in range(classes)]
            result |= {"names": names.tolist(), "sizes": sizes.tolist(), "shown": shown}
    return result


def _check(x: np.ndarray, classes: int, config: ClusterConfig) -> None:
    if config.components > min(x.shape):
        raise UserError(f"components {config.components} are more than the {len(x)} images fitted "
                        f"on or their {x.shape[1]} features")  # fmt: skip
    if len(x) < classes:
        raise UserError(f"fit {config.fit} has fewer images than there are classes, {classes}")


def _fit(config: ClusterConfig, x: np.ndarray, clusters: int, seed: int) -> Pipeline:
    """Principal components, if any, and the clustering: both belong to the method, and its time."""
    if config.method == "kmeans":
        model = KMeans(clusters, n_init=1, random_state=seed)  # k-means++ start
    else:
        ridge = {"covariance_type": "full", "reg_covar": GMM_RIDGE}
        model = GaussianMixture(clusters, **ridge, random_state=seed)
    first = [PCA(config.components, svd_solver="covariance_eigh")] if config.components else []
    return make_pipeline(*first, model).fit(x)


def hungarian_match(found: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The one-to-one naming of clusters by classes that most images agree with.

    Args: found, labels: cluster and class of each image, int (N,), both in 0 ... classes - 1.
    Returns: int (K,), the class of each cluster.
    Source: Kuhn 1955, through scipy's linear_sum_assignment.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (found, labels), 1)
    clusters, names = linear_sum_assignment(counts, maximize=True)
    return names[np.argsort(clusters)]
