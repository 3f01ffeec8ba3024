"""What is measured on stored runs, by the method's own functions; each result is kept with its run.

Shape letters: N images, C channels, S image side, H_dim width of h, D width of z, K classes.
"""

import time
from collections import OrderedDict
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from labreport.store.evaluation import evaluation
from labreport.store.runs import Run
from simclr_core import cluster as clustering
from simclr_core import evaluate, geometry
from simclr_core.augment import make_views, normalise, view_recipe
from simclr_core.cluster import ClusterConfig
from simclr_core.data.dataset import Dataset, Split
from simclr_core.errors import UserError
from simclr_core.evaluate import ENCODE_BATCH, Labelled, ProbeConfig
from simclr_core.seeds import generator

KEPT_BYTES = 1 << 30  # of h held at a time: the runs of a notebook, at R1's size
Part = tuple[int, int] | None  # a range of the training images; None: the test split


_held: OrderedDict[tuple, tuple[Tensor, float]] = OrderedDict()  # h and the seconds it took


def features(
    run: Run, data: Dataset, part: Part, on: str = "h", epoch: int | None = None
) -> tuple[Tensor, float]:
    """h (N, H_dim), or z (N, D), of the images of a part, and the seconds of encoding them.

    Probes and kNN of the same runs ask for the same images: the last gigabyte of h is held.
    """
    images = split_of(data, part).images
    weights = run.record["files"].get(run.weights_file(epoch))
    key = str(run.path.resolve()), weights, part and tuple(part), data.fingerprint
    if key not in _held:
        started = time.perf_counter()
        statistics = data.mean, data.std
        h = evaluate.encode(run.load_encoder(epoch), images, *statistics, run.config.device)
        _held[key] = h, time.perf_counter() - started
        while len(_held) > 1 and sum(h.nbytes for h, _ in _held.values()) > KEPT_BYTES:
            _held.popitem(last=False)
    h, seconds = _held[key]
    return (h if on == "h" else _behind_head(run, h)), seconds


def _behind_head(run: Run, h: Tensor) -> Tensor:
    return evaluate.outputs(run.load_projection_head(), h.split(ENCODE_BATCH), run.config.device)


def _labelled(run: Run, data: Dataset, part: Part, on="h", epoch=None) -> tuple[Labelled, float]:
    x, seconds = features(run, data, part, on, epoch)
    return (x, split_of(data, part).labels.to(x.device)), seconds


def split_of(data: Dataset, part: Part, field: str = "labels or scored_on") -> Split:
    """A range of the training split (streamed images are not read yet), or the test split (None).

    Raises: UserError naming `field` if the range reaches outside.
    """
    if part is None:
        return data.test
    if not 0 <= part[0] < part[1] <= len(data.train):
        raise UserError(f"{field} {tuple(part)} is not a range within the {len(data.train):,} "
                        f"training images of {data.name}")  # fmt: skip
    return data.train.part(*part)


def _first_test_images(data: Dataset, images: int) -> Labelled:
    if not 2 <= images <= len(data.test):
        raise UserError(f"images {images} must be 2 to {len(data.test):,}, the test images of "
                        f"{data.name}")  # fmt: skip
    return data.test.images[:images], data.test.labels[:images]


# ---- classifiers --------------------------------------------------------------------------------


def fit_probe(run: Run, data: Dataset, config: ProbeConfig) -> dict:
    """simclr_core.evaluate.fit_probe on the run's frozen features, encoded once; and seconds.

    With moving_bn: on the images, scored after the last epoch (R2's CIFAR-10 form).
    """

    def compute() -> dict:
        if config.moving_bn:
            return _fine_tune(run, data, config)
        parts = config.labels, config.scored_on
        given = [_labelled(run, data, part, config.on, config.epoch) for part in parts]
        started = time.perf_counter()
        (fitted, encoding), (scored, more) = given
        result = evaluate.fit_probe(fitted, scored, len(data.class_names), config)
        seconds = encoding + more + time.perf_counter() - started
        return {**result, "seconds": round(seconds, 3)}

    where = {"epoch": config.epoch, "on": config.on}
    return evaluation(run, data, "probe", config.record(), compute, **where)


def fine_tune(run: Run, data: Dataset, config: ProbeConfig) -> dict:
    """simclr_core.evaluate.fine_tune on a copy of the run's encoder; and seconds.

    On an untrained run this is the supervised network of the same shape.
    Raises: UserError for moving_bn, which trains no encoder (`fit_probe` has it).
    """
    if config.moving_bn:
        raise UserError("moving_bn is a probe's: fine-tuning trains the encoder's weights")
    recipe = asdict(view_recipe(config.augmentation)) if config.augmentation else None
    whole = {**config.record(), "views": recipe}
    compute = lambda: _fine_tune(run, data, config)  # noqa: E731
    return evaluation(
        run, data, "finetune", whole, compute, epoch=config.epoch
    )


def _fine_tune(run: Run, data: Dataset, config: ProbeConfig) -> dict:
    started = time.perf_counter()
    encoder = run.load_encoder(config.epoch).to(memory_format=torch.channels_last)
    parts = (split_of(data, part) for part in (config.labels, config.scored_on))
    device = run.config.device
    fitted, scored = ((part.images[:].to(device), part.labels.to(device)) for part in parts)
    how = data.mean, data.std, run.config.precision
    result = evaluate.fine_tune(encoder, fitted, scored, len(data.class_names), config, *how)
    return {**result, "seconds": round(time.perf_counter() - started, 3)}


def knn(
    run: Run, data: Dataset, labels: tuple[int, int], k: int = 10, temperature: float | None = None,
    scored_on: Part = None, epoch: int | None = None,
) -> dict:  # fmt: skip
    """accuracy of simclr_core.evaluate.knn_accuracy on the run's h, and seconds."""

    def compute() -> dict:
        (known, seconds), (scored, more) = (
            _labelled(run, data, part, epoch=epoch) for part in (labels, scored_on)
        )
        started = time.perf_counter()
        accuracy = evaluate.knn_accuracy(known, scored, k, temperature)
        seconds += more + time.perf_counter() - started
        return {"accuracy": accuracy, "seconds": round(seconds, 3)}

    config = {"labels": labels, "scored_on": scored_on, "k": k, "temperature": temperature}
    config["epoch"] = epoch
    return evaluation(run, data, "knn", config, compute, epoch)


def cluster(run: Run, data: Dataset, config: ClusterConfig) -> dict:
    """simclr_core.cluster.cluster on the run's h, and pictures (K, SHOWN, S, S, C) of the test
    images shown, zeros where a cluster is smaller."""

    def compute() -> dict:
        fit = split_of(data, config.fit, "fit")
        (x, _), (x_test, _) = (features(run, data, part) for part in (config.fit, None))
        fitted = x.cpu().numpy(), fit.labels.numpy()
        scored = x_test.cpu().numpy(), data.test.labels.numpy()
        classes, seed = len(data.class_names), run.config.seed
        result = clustering.cluster(fitted, scored, classes, config, seed)
        images = data.test.images
        pictures = np.zeros((classes, clustering.SHOWN, *images.shape[1:]), np.uint8)
        for k, rows in enumerate(result.pop("shown")):
            pictures[k, : len(rows)] = images[rows].numpy() if rows else 0
        return {**result, "pictures": pictures}

    return evaluation(run, data, "cluster", config.record(), compute)


# ---- geometry and pictures ----------------------------------------------------------------------


def measure_geometry(
    run: Run, data: Dataset, images: int, on: str = "h", epoch: int | None = None
) -> dict:
    """simclr_core.geometry.measure_geometry of the first test images; two views by the run's recipe.

    On h, after the last epoch or a kept one; or on z, after the last.
    """
    if on == "z" and epoch not in (None, run.config.epochs):
        raise UserError(f"z after epoch {epoch} cannot be had: only the last epoch's projection "
                        "head is stored")  # fmt: skip
    recipe = run.config.views()

    def compute() -> dict:
        pictures, labels = _first_test_images(data, images)
        draws = generator(0, "views")
        views = make_views(pictures, recipe, data.mean, data.std, draws)
        u, v, h = (_embed(run, x, on, epoch) for x in (*views, _plain(pictures, data)))
        return geometry.measure_geometry(u, v, h, labels, len(data.class_names))

    config = {"images": images, "on": on, "epoch": epoch, "views": asdict(recipe)}
    return evaluation(
        run, data, "geometry", config, compute, epoch, on
    )


def map_in_the_plane(
    run: Run, data: Dataset, images: int, method: str = "tsne", on: str = "h"
) -> dict:
    """simclr_core.geometry.map_in_the_plane of the first test images, and their labels."""

    def compute() -> dict:
        pictures, labels = _first_test_images(data, images)
        plane = geometry.map_in_the_plane(_embed(run, _plain(pictures, data), on), method)
        return {**plane, "labels": labels.tolist()}

    config = {"images": images, "method": method, "on": on}
    return evaluation(run, data, "map", config, compute, on=on)


def neighbours(run: Run, data: Dataset, labels: tuple[int, int], k: int = 8) -> dict:
    """The training images nearest to the first test image of each class.

    Returns: queries (Q, S, S, C) and pictures (Q, k, S, S, C), uint8; query_labels, labels and
        similarities (Q lists of k).
    """

    def compute() -> dict:
        given, test = split_of(data, labels), data.test
        queries = [int((test.labels == label).nonzero()[0]) for label in test.labels.unique()]
        encoder, device = run.load_encoder(), run.config.device
        h, h_asked = (
            evaluate.encode(encoder, x, data.mean, data.std, device).cpu()
            for x in (given.images, test.images[queries])
        )
        similarities, found = geometry.neighbours(h, h_asked, k)
        return {
            "queries": test.images[queries].numpy(),
            "pictures": given.images[found].numpy(),
            "query_labels": test.labels[queries].tolist(),
            "labels": given.labels[found].tolist(),
            "similarities": similarities.tolist(),
        }

    config = {"labels": labels, "k": k}
    return evaluation(run, data, "neighbours", config, compute)


def picture_views(run: Run, data: Dataset, images: int = 8, pairs: int = 3) -> dict:
    """The first training images of the run and view pairs of each, as the run would see them.

    Returns: images (N, S, S, C) and views (N, 2 pairs, S, S, C), uint8; view 1 and 2 in turn,
        normalisation undone.
    """

    def compute() -> dict:
        start = run.config.images[0]
        given = data.train.images[start : start + images]
        recipe, draws = run.config.views(), generator(run.config.seed, "views")
        views = [
            _picture(x, data)
            for _ in range(pairs)
            for x in make_views(given, recipe, data.mean, data.std, draws)
        ]
        return {"images": given.numpy(), "views": torch.stack(views, 1).numpy()}

    config = {"images": images, "pairs": pairs}
    return evaluation(run, data, "views", config, compute)


def _picture(x: Tensor, data: Dataset) -> Tensor:
    """Normalised (N, C, S, S) back to uint8 (N, S, S, C)."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
    pixels = ((x.cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous()


def _plain(images: Tensor, data: Dataset) -> Tensor:
    return normalise(images, data.mean, data.std)


def _embed(run: Run, x: Tensor, on: str, epoch: int | None = None) -> Tensor:
    """h (N, H_dim) or z (N, D), on the CPU, of normalised images or views (N, C, S, S)."""
    if on not in ("h", "z"):
        raise UserError(f"on {on!r} is unknown; known are h, z")
    h = evaluate.outputs(run.load_encoder(epoch), x.split(ENCODE_BATCH), run.config.device)
    return (_behind_head(run, h) if on == "z" else h).cpu()
