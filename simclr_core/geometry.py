"""The geometry of h: distances between classes, alignment and uniformity, effective rank, neighbours, maps.

Shape letters: N images, H_dim width of h (or of z), K classes. All on test images (nothing is chosen by them) and on
features of unit length, as the loss sees them; only `map_in_the_plane` and `neighbours` keep results for single images.
"""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor
from torch.nn import functional as F

from simclr_core.augment import make_views, normalise, view_recipe
from simclr_core.data import Dataset
from simclr_core.errors import UserError
from simclr_core.evaluate import ENCODE_BATCH, encode, outputs, split_of
from simclr_core.pretrain import generator
from simclr_core.runs import Run, pack_array

PERPLEXITY = 30.0  # of t-SNE: van der Maaten and Hinton 2008 advise 5 to 50; scikit-learn's default


def alignment(u: Tensor, v: Tensor) -> float:
    """Mean squared distance of positive pairs, rows of u and v (N, H_dim), at unit length: 0 (equal) to 4.

    Source: Wang and Isola 2020, arXiv 2005.10242, alpha 2.
    """
    return (F.normalize(u) - F.normalize(v)).square().sum(1).mean().item()


def uniformity(u: Tensor) -> float:
    """log of the mean of exp(-2 |x - y|^2) over pairs of different rows of u (N, H_dim) at unit length; 0 is the worst
    (all equal), about -4 the best. Source: Wang and Isola 2020, arXiv 2005.10242, t 2."""
    return torch.pdist(F.normalize(u)).square().mul(-2).exp().mean().log().item()


def effective_rank(h: Tensor) -> float:
    """exp of the entropy of the singular values of h (N, H_dim), as shares of their sum: 1 to min(N, H_dim).

    Source: Roy and Vetterli 2007; as a measure of representations Garrido et al. 2023, arXiv 2210.02885 (RankMe).
    """
    values = torch.linalg.svdvals(h.double())
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp().item()


def class_distances(h: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean cosine distance, 1 - cos, between images of two classes, (K, K); on the diagonal between different images
    of one class. Args: h (N, H_dim); labels int64 (N,), at least two of each class. Raises: UserError if not."""
    counts = torch.bincount(labels, minlength=classes)
    if counts.min() < 2:
        raise UserError(f"class {int(counts.argmin())} has {int(counts.min())} test images; distances need 2 or more")
    sums = torch.zeros(classes, h.shape[1], dtype=torch.float64, device=h.device)
    sums.index_add_(0, labels, F.normalize(h.double()))
    similarities = sums @ sums.T / torch.outer(counts, counts)
    own = (sums.square().sum(1) - counts) / (counts * (counts - 1))  # without each image and itself
    return 1 - similarities.diagonal_scatter(own)


def measure_geometry(run: Run, data: Dataset, images: int, on: str = "h", epoch: int | None = None) -> dict:
    """Alignment, uniformity, effective rank and class distances of the first `images` test images, after the last
    epoch or a kept one; on h, or on z (after the last epoch: the head of a kept one is not kept). Stored in the run.

    Returns: alignment (of two views by the run's recipe), uniformity and effective_rank (of the images as they are),
        class_distances (K x K), within and between (means over its diagonal and the rest).
    """

    if on == "z" and epoch not in (None, run.config.epochs):
        raise UserError(f"z after epoch {epoch} cannot be had: only the last epoch's projection head is stored")
    augmentation, strength = run.config.augmentation, run.config.strength

    def compute() -> dict:
        pictures, labels = _test_images(data, images)
        recipe = view_recipe(augmentation, strength)
        views = make_views(pictures, recipe, data.mean, data.std, generator(0, "views"))
        u, v, plain = (_embed(run, x, on, epoch) for x in (*views, normalise(pictures, data.mean, data.std)))
        distances = class_distances(plain, labels, len(data.class_names))
        between = ~torch.eye(len(distances), dtype=torch.bool)
        return {"alignment": alignment(u, v), "uniformity": uniformity(plain), "effective_rank": effective_rank(plain),
                "class_distances": distances.tolist(), "within": distances.diagonal().mean().item(),
                "between": distances[between].mean().item()}  # fmt: skip

    config = {"images": images, "on": on, "epoch": epoch, "augmentation": augmentation, "strength": strength}
    return run.evaluation("geometry", config, data, compute)


def map_in_the_plane(run: Run, data: Dataset, images: int, method: str = "tsne", on: str = "h") -> dict:
    """Coordinates (N, 2) and labels of the first `images` test images, by "pca" or "tsne" (started from the principal
    components, always the same). Stored in the run.

    Returns: coordinates, labels, explained (pca: shares of the variance of the first ten components).
    """
    if method not in ("pca", "tsne"):
        raise UserError(f"map {method!r} is unknown; known are pca, tsne")

    def compute() -> dict:
        pictures, labels = _test_images(data, images)
        x = F.normalize(_embed(run, normalise(pictures, data.mean, data.std), on)).numpy().astype(np.float64)
        pca = PCA(min(10, *x.shape), svd_solver="full").fit(x)
        plane = pca.transform(x)[:, :2]
        if method == "tsne":
            tsne = TSNE(perplexity=min(PERPLEXITY, (len(x) - 1) / 3), init="pca", random_state=0)
            plane = tsne.fit_transform(x)
        return {"coordinates": np.round(plane, 4).tolist(), "labels": labels.tolist(),
                "explained": pca.explained_variance_ratio_.tolist()}  # fmt: skip

    return run.evaluation("map", {"images": images, "method": method, "on": on}, data, compute)


def neighbours(run: Run, data: Dataset, labels: tuple[int, int], k: int = 8) -> dict:
    """The k training images of the range `labels` that are nearest, by cosine similarity of h, to the first test image
    of each class. Stored in the run.

    Returns: queries (packed uint8 (Q, S, S, C)), pictures (packed uint8 (Q, k, S, S, C)), query_labels, labels and
        similarities (Q lists of k).
    """

    def compute() -> dict:
        given = split_of(data, labels)
        images, classes = given.images, given.labels
        queries = [int((data.test.labels == label).nonzero()[0]) for label in data.test.labels.unique()]
        asked, asked_classes = data.test.images[queries], data.test.labels[queries]
        encoder = run.load_encoder()
        h, h_asked = (F.normalize(encode(encoder, x, data, run.config.device)).cpu() for x in (images, asked))
        similarities, found = (h_asked @ h.T).topk(min(k, len(h)), dim=1)  # (Q, k)
        return {"queries": pack_array(asked.numpy()), "pictures": pack_array(images[found].numpy()),
                "query_labels": asked_classes.tolist(), "labels": classes[found].tolist(),
                "similarities": similarities.tolist()}  # fmt: skip

    return run.evaluation("neighbours", {"labels": list(labels), "k": k}, data, compute)


def _embed(run: Run, x: Tensor, on: str, epoch: int | None = None) -> Tensor:
    """h (N, H_dim) or z (N, D), on the CPU, of normalised images or views (N, C, S, S)."""
    if on not in ("h", "z"):
        raise UserError(f"on {on!r} is unknown; known are h, z")
    out = outputs(run.load_encoder(epoch), x.split(ENCODE_BATCH), run.config.device)
    return (outputs(run.load_projection_head(), [out], run.config.device) if on == "z" else out).cpu()


def _test_images(data: Dataset, images: int) -> tuple[Tensor, Tensor]:
    if not 2 <= images <= len(data.test):
        raise UserError(f"images {images} must be 2 to {len(data.test):,}, the test images of {data.name}")
    return data.test.images[:images], data.test.labels[:images]
