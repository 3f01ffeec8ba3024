"""What an encoder is worth: classifiers on frozen features, fine-tuning, nearest neighbours.

Shape letters: N, M images, C channels, S image side, H_dim width of h, K classes.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from simclr_core.augment import VIEW_RECIPES, apply_recipe, draw_parameters, normalise, view_recipe
from simclr_core.checked import Checked, Count, NotNegative, Positive, Range, at_least, one_of
from simclr_core.data.dataset import feed
from simclr_core.errors import UserError, enough_memory
from simclr_core.optim import OPTIMIZERS, SCHEDULES, build_optimizer, lr_factor
from simclr_core.precision import autocast, exact_fp32
from simclr_core.seeds import batches, generator, stream_seed

ENCODE_BATCH = 1_000  # images; bounds memory, no effect on eval-mode features
MOMENTUM = 0.9  # of sgd, lars and muon for a classifier: as in PyTorch's ImageNet example
COLDEST = 1 / 80  # a sum of exp(1 / temperature) must stay within fp32

Labelled = tuple[Tensor, Tensor]  # features (N, H_dim) or images (N, S, S, C); labels int64 (N,)


@dataclass(frozen=True)
class ProbeConfig(Checked):
    """A classifier on frozen features, or (`fine_tune`) on an encoder that is trained with it."""

    labels: Range  # of the training images, whose labels are used
    per_class: at_least(0) = 0  # images of each class among them (`balanced_rows`); 0: all
    draw: at_least(0) = 0  # which of the fixed lists of per_class images
    scored_on: Range | None = None  # None: the test split; a range: a validation split of train
    epoch: Count | None = None  # which kept encoder; None: the last
    on: one_of(("h", "z")) = "h"  # before or behind the projection head
    hidden: at_least(0, 1 << 16) = 0  # width of one hidden layer with ReLU; 0: linear
    epochs: at_least(1) = 30
    batch_size: at_least(1) = 128
    optimizer: one_of(OPTIMIZERS) = "adam"
    lr: Positive = 0.001
    weight_decay: NotNegative = 0.0
    schedule: one_of(SCHEDULES) = "constant"
    standardise: bool = False  # features to mean 0, deviation 1, by the labelled images' statistics
    moving_bn: bool = False  # R2's CIFAR-10 form: weights frozen, but the encoder in training mode,
    # so that its BN statistics move; not linear evaluation, kept to show what it does
    augmentation: one_of(["", *VIEW_RECIPES]) = ""  # fine-tuning: a view of each image by it
    seed: at_least(0) = 0  # weights and order

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moving_bn and (self.standardise or self.on == "z"):
            raise UserError("moving_bn trains on h as it is: it goes neither with standardise "
                            "nor with on 'z'")  # fmt: skip
        if self.draw and not self.per_class:
            raise UserError(f"draw {self.draw} chooses among lists of per_class images: give "
                            "per_class, or draw 0")  # fmt: skip
        (first, end), (start, stop) = self.labels, self.scored_on or (0, 0)
        if max(first, start) < min(end, stop):
            raise UserError(f"scored_on {self.scored_on} shares images with labels {self.labels}: "
                            "a probe is not scored on what it was fitted on")  # fmt: skip


def fit_probe(fitted: Labelled, scored: Labelled, classes: int, config: ProbeConfig) -> dict:
    """Fit a classifier on features (N, H_dim) and score it on others after every epoch.

    Returns: accuracy (last epoch), accuracies and train_accuracies (an epoch each), losses (nats,
        running mean of each epoch), confusion (K x K counts, rows are true classes).
    Raises: UserError for an augmentation, and for one image with standardise.
    """
    if config.augmentation:
        raise UserError("a probe works on features of the images as they are: augmentation is "
                        "for fine-tuning")  # fmt: skip
    x, labels = _chosen(fitted, config)
    x_scored = scored[0]
    if config.standardise:
        if len(x) < 2:
            raise UserError("standardise needs two labelled images or more, got 1")
        mean, std = x.mean(0), x.std(0).clamp_min(1e-6)  # a dead feature stays 0
        x, x_scored = (x - mean) / std, (x_scored - mean) / std
    classifier = build_classifier(x.shape[1], classes, config).to(x.device)
    return _train(classifier, lambda rows, _: x[rows], labels, (x_scored, scored[1]), config)


def fine_tune(encoder: nn.Module, fitted: Labelled, scored: Labelled, classes: int,
              config: ProbeConfig, mean: tuple[float, ...], std: tuple[float, ...],
              precision: str = "fp32") -> dict:  # fmt: skip
    """Train encoder and classifier together on images, uint8 (N, S, S, C); the encoder changes.

    With config.moving_bn the encoder's weights stay, its BN statistics move.
    Returns: as `fit_probe`, but scored after the last epoch only: a pass over the scored images
        costs more than an epoch on few labels.
    """
    if config.on == "z" or config.standardise:
        raise UserError("fine-tuning and moving_bn train on images; on 'z' and standardise are "
                        "for probes on features")  # fmt: skip
    encoder.requires_grad_(not config.moving_bn)
    images, labels = _chosen(fitted, config)
    classifier = build_classifier(encoder.h_dim, classes, config).to(images.device)
    network = nn.Sequential(encoder, *classifier)
    recipe = config.augmentation and view_recipe(config.augmentation)

    def inputs(rows: Tensor, draws: Generator) -> Tensor:
        if not config.augmentation:
            return normalise(images[rows], mean, std)
        parameters = draw_parameters(recipe, len(rows), *images.shape[1:3], draws)
        return apply_recipe(images[rows], recipe, parameters, mean, std)

    given = normalise(scored[0], mean, std), scored[1]
    return _train(network, inputs, labels, given, config, precision, each_epoch=False)


def _train(network: nn.Module, inputs: Callable[[Tensor, Generator], Tensor], labels: Tensor,
           scored: Labelled, config: ProbeConfig, precision: str = "fp32",
           each_epoch: bool = True) -> dict:  # fmt: skip
    """Cross-entropy by mini-batches; the loop that probe and fine-tuning share.

    Args:
        inputs: maps the rows of a batch and the epoch's generator of views to the network's input.
        scored: the network's input, and labels.
        each_epoch: score after each epoch, not after the last only.
    """
    rates = config.lr, config.weight_decay, MOMENTUM
    optimizer = build_optimizer(config.optimizer, [network], *rates)
    result = {"accuracies": [], "train_accuracies": [], "losses": []}
    for epoch in range(1, config.epochs + 1):
        loss, correct = _train_epoch(network, inputs, labels, config, precision, optimizer, epoch)
        result["losses"].append(loss / len(labels))
        result["train_accuracies"].append(correct / len(labels))
        if each_epoch or epoch == config.epochs:
            found = _predict(network, scored[0], precision)
            right = (found == scored[1]).sum().item()
            result["accuracies"].append(right / len(scored[1]))
    classes = network[-1].out_features
    counts = torch.bincount(scored[1] * classes + found, minlength=classes**2)
    result["confusion"] = counts.view(classes, classes).tolist()
    return {**result, "accuracy": result["accuracies"][-1]}


def _train_epoch(network, inputs, labels, config, precision, optimizer, epoch: int) -> tuple:
    """One pass over the labelled images; the sum of their losses, and how many were right."""
    network.train()
    total, correct = torch.zeros(2, device=labels.device).unbind()
    order = torch.randperm(len(labels), generator=generator(config.seed, "order", epoch))
    draws = generator(config.seed, "views", epoch)
    parts = batches(order.to(labels.device), config.batch_size)
    for step, rows in enumerate(parts, (epoch - 1) * len(parts)):
        factor = lr_factor(config.schedule, step, len(parts) * config.epochs)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * factor
        with exact_fp32():
            x = inputs(rows, draws)
            with autocast(x.device.type, precision):
                logits = network(x)  # (N, K)
            loss = F.cross_entropy(logits.float(), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        optimizer.step()
        total += loss.detach() * len(rows)
        correct += (logits.argmax(1) == labels[rows]).sum()
    if not math.isfinite(total.item()):
        raise UserError(f"the classifier's loss is {total.item()} in epoch {epoch}; "
                        f"lower its lr ({config.lr:g})")  # fmt: skip
    return total.item(), correct.item()


@torch.no_grad()
def _predict(network: nn.Module, x: Tensor, precision: str) -> Tensor:
    network.eval()
    with exact_fp32(), autocast(x.device.type, precision):
        return torch.cat([network(part).argmax(1) for part in x.split(ENCODE_BATCH)])


def build_classifier(width: int, classes: int, config: ProbeConfig) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "weights"))
        if not config.hidden:
            return nn.Sequential(nn.Linear(width, classes))
        hidden = nn.Linear(width, config.hidden)
        return nn.Sequential(hidden, nn.ReLU(), nn.Linear(config.hidden, classes))


def balanced_rows(labels: Tensor, per_class: int, draw: int) -> Tensor:
    """Rows of `per_class` images of each class (0: all), sorted: a fixed list for each `draw`.

    Shorter lists of a draw are contained in its longer ones. labels: int64 (N,).
    Raises: UserError if a class has too few images.
    """
    rows, labels = [], labels.cpu()
    if not per_class:
        return torch.arange(len(labels))
    for label in range(int(labels.max()) + 1):
        of_class = (labels == label).nonzero().flatten()
        if len(of_class) < per_class:
            raise UserError(f"per_class {per_class} is more than the {len(of_class)} labelled "
                            f"images of class {label}")  # fmt: skip
        order = torch.randperm(len(of_class), generator=generator(draw, "labels", label))
        rows.append(of_class[order[:per_class]])
    return torch.cat(rows).sort().values


def _chosen(fitted: Labelled, config: ProbeConfig) -> Labelled:
    rows = balanced_rows(fitted[1], config.per_class, config.draw).to(fitted[1].device)
    return fitted[0][rows], fitted[1][rows]


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Eval mode, no gradients; afterwards every parameter and buffer must be bit-identical.

    Raises: RuntimeError if one is not (BN statistics that moved, say).
    """
    before = [_bits(tensor).clone() for tensor in module.state_dict().values()]
    module.eval()
    with torch.no_grad():
        yield module
    after = [_bits(tensor) for tensor in module.state_dict().values()]
    if not all(torch.equal(*pair) for pair in zip(before, after, strict=True)):
        raise RuntimeError("the encoder changed while it was to be frozen")


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(-1).view(torch.uint8)  # NaN equals itself, 0.0 is not -0.0


def encode(module: nn.Module, images: Tensor, mean: tuple[float, ...], std: tuple[float, ...],
           device: str = "cpu") -> Tensor:  # fmt: skip
    """Features (N, H_dim), float32, of uint8 images (N, S, S, C); eval mode, no gradient."""
    with feed(images, torch.arange(len(images)).split(ENCODE_BATCH)) as parts:
        return outputs(module, (normalise(part.to(device), mean, std) for part in parts), device)


def outputs(module: nn.Module, parts: Iterable[Tensor], device: str) -> Tensor:
    """What a frozen network makes of its input, given in parts: float32, on the device."""
    advice = "try a smaller simclr_core.evaluate.ENCODE_BATCH, or an encoder of smaller width"
    with enough_memory(f"encoding images {ENCODE_BATCH} at a time on {device}", advice):
        with frozen(module) as network, exact_fp32():
            return torch.cat([network(part.to(device)).float() for part in parts])


def knn_accuracy(known: Labelled, scored: Labelled, k: int = 10,
                 temperature: float | None = None) -> float:  # fmt: skip
    """Accuracy of a vote among the k nearest by cosine similarity.

    Args:
        known, scored: features (N, H_dim) and (M, H_dim), normalised here, with their labels.
        temperature: None: one neighbour, one vote; else votes weigh exp(similarity / temperature)
            (Wu et al. 2018, arXiv 1805.01978; lightly's k = 200 uses 0.1). Ties go to the smaller
            class number.
    """
    (h, labels), (h_scored, truth) = known, scored
    if not 1 <= k <= len(h):
        raise UserError(f"k must lie between 1 and the {len(h)} labelled images, got {k}")
    if temperature is not None and not temperature >= COLDEST:
        raise UserError(f"temperature must be at least 1 / 80, got {temperature}")
    h, h_scored = F.normalize(h), F.normalize(h_scored)
    classes, found = int(labels.max()) + 1, []
    for part in h_scored.split(ENCODE_BATCH):
        similarity, rows = (part @ h.T).topk(k, dim=1)  # (M, k)
        weights = (similarity / temperature).exp() if temperature else torch.ones_like(similarity)
        votes = torch.zeros(len(part), classes, device=h.device)
        found.append(votes.scatter_add_(1, labels[rows], weights).argmax(1))
    return (torch.cat(found) == truth).sum().item() / len(truth)
