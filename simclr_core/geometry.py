"""The geometry of h: distances, alignment and uniformity, effective rank, neighbours, maps.

Shape letters: N images, H_dim width of h (or of z), K classes. All on features of unit length, as
the loss sees them.
"""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor
from torch.nn import functional as F

from simclr_core.errors import UserError

PERPLEXITY = 30.0  # of t-SNE: van der Maaten and Hinton 2008 advise 5 to 50; scikit-learn's default


def alignment(u: Tensor, v: Tensor) -> float:
    """Mean squared distance of positive pairs, rows of u and v (N, H_dim), 0 (equal) to 4.

    Source: Wang and Isola 2020, arXiv 2005.10242, alpha 2.
    """
    return (F.normalize(u) - F.normalize(v)).square().sum(1).mean().item()


def uniformity(u: Tensor) -> float:
    """log of the mean of exp(-2 |x - y|^2) over pairs of different rows of u (N, H_dim).

    0 is the worst (all equal), about -4 the best. Source: Wang and Isola 2020, t 2.
    """
    return torch.pdist(F.normalize(u)).square().mul(-2).exp().mean().log().item()


def effective_rank(h: Tensor) -> float:
    """exp of the entropy of h's singular values as shares of their sum: 1 to min(N, H_dim).

    Source: Roy and Vetterli 2007; of representations Garrido et al. 2023, arXiv 2210.02885.
    """
    values = torch.linalg.svdvals(h.double())
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp().item()


def class_distances(h: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean cosine distance, 1 - cos, between images of two classes, (K, K).

    On the diagonal between different images of one class.
    Args: h (N, H_dim); labels int64 (N,), at least two of each class. Raises: UserError if not.
    """
    counts = torch.bincount(labels, minlength=classes)
    if counts.min() < 2:
        raise UserError(f"class {int(counts.argmin())} has {int(counts.min())} test images; "
                        "distances need 2 or more")  # fmt: skip
    sums = torch.zeros(classes, h.shape[1], dtype=torch.float64, device=h.device)
    sums.index_add_(0, labels, F.normalize(h.double()))
    similarities = sums @ sums.T / torch.outer(counts, counts)
    own = (sums.square().sum(1) - counts) / (counts * (counts - 1))  # without each with itself
    return 1 - similarities.diagonal_scatter(own)


def measure_geometry(u: Tensor, v: Tensor, h: Tensor, labels: Tensor, classes: int) -> dict:
    """All of the above, of the same images: two views u, v and the images as they are, h.

    Returns: alignment, uniformity, effective_rank, class_distances (K x K), within and between
        (means over its diagonal and the rest).
    """
    distances, same = class_distances(h, labels, classes), torch.eye(classes, dtype=torch.bool)
    means = {"within": distances[same].mean().item(), "between": distances[~same].mean().item()}
    spread = {"uniformity": uniformity(h), "effective_rank": effective_rank(h)}
    return {"alignment": alignment(u, v), "class_distances": distances.tolist()} | spread | means


def map_in_the_plane(h: Tensor, method: str = "tsne") -> dict:
    """Coordinates (N, 2) by "pca", or "tsne" (started from it, always the same).

    Returns: coordinates, explained (shares of the variance of the first ten components).
    """
    if method not in ("pca", "tsne"):
        raise UserError(f"map {method!r} is unknown; known are pca, tsne")
    x = F.normalize(h).numpy().astype(np.float64)
    pca = PCA(min(10, *x.shape), svd_solver="full").fit(x)
    plane = pca.transform(x)[:, :2]
    if method == "tsne":
        perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
        plane = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(x)
    explained = pca.explained_variance_ratio_.tolist()
    return {"coordinates": np.round(plane, 4).tolist(), "explained": explained}


def neighbours(h: Tensor, h_asked: Tensor, k: int = 8) -> tuple[Tensor, Tensor]:
    """Cosine similarities and rows of the k of h (N, H_dim) nearest to each of h_asked (Q, H_dim).

    Returns: both (Q, k), the nearest first.
    """
    return (F.normalize(h_asked) @ F.normalize(h).T).topk(min(k, len(h)), dim=1)
