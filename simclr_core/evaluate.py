"""What a frozen (or fine-tuned) encoder is worth: probes, kNN, fine-tuning. Results are stored in the run's folder.

Shape letters: N images, C channels, S image side, H_dim width of h, K classes.
"""

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_core.augment import VIEW_RECIPES, apply_recipe, draw_parameters, make_views, normalise, view_recipe
from simclr_core.data import Dataset, Split, feed
from simclr_core.errors import UserError, enough_memory
from simclr_core.optim import build_optimizer, lr_factor
from simclr_core.pretrain import batches, generator, stream_seed
from simclr_core.runs import Run, check_types, config_record, pack_array

ENCODE_BATCH = 1_000  # images; bounds memory, no effect on eval-mode features
KEPT_BYTES = 1 << 30  # of h held at a time: the runs of a notebook, at R1's size


@dataclass(frozen=True)
class ProbeConfig:
    """A classifier on frozen features, or (fine_tune) on an encoder that is trained with it."""

    labels: tuple[int, int]  # range of training images whose labels are used
    per_class: int = 0  # of that range, so many images of each class (`balanced_rows`); 0: all
    draw: int = 0  # which of the fixed lists of per_class images
    scored_on: tuple[int, int] | None = None  # None: the test split; a range: a validation split cut from train
    epoch: int | None = None  # which kept encoder; None: the last
    on: str = "h"  # h, or z (behind the projection head)
    hidden: int = 0  # width of one hidden layer with ReLU; 0: linear
    epochs: int = 30
    batch_size: int = 128
    optimizer: str = "adam"
    lr: float = 0.001
    weight_decay: float = 0.0
    schedule: str = "constant"  # constant, cosine (to 0)
    standardise: bool = False  # features to mean 0, standard deviation 1, by the labelled images' statistics
    moving_bn: bool = False  # R2's CIFAR-10 form: weights frozen, but the encoder in training mode, so that its BN
    # statistics move; not linear evaluation, kept to show what it does
    augmentation: str = ""  # fine-tuning: one random view of each labelled image, by this recipe; "": as it is
    seed: int = 0  # weights and order

    def __post_init__(self) -> None:
        check_types(self)
        if self.on not in ("h", "z"):
            raise UserError(f"probe on {self.on!r} is unknown; known are h, z")
        if self.epochs < 1 or self.batch_size < 1:
            raise UserError(f"probe epochs and batch_size must be at least 1, got {self.epochs}, {self.batch_size}")
        if not self.lr > 0:
            raise UserError(f"probe lr must be positive, got {self.lr}")
        for field, limit in {"lr": math.inf, "weight_decay": math.inf, "hidden": 1 << 16, "seed": math.inf}.items():
            if not 0 <= getattr(self, field) < limit:
                raise UserError(f"probe {field} must be 0 or more and below {limit}, got {getattr(self, field)}")
        if self.moving_bn and (self.standardise or self.on == "z"):
            raise UserError("moving_bn trains on h as it is: it goes neither with standardise nor with on 'z'")
        if self.augmentation and self.augmentation not in VIEW_RECIPES:
            raise UserError(f"augmentation {self.augmentation!r} is unknown; known are {', '.join(VIEW_RECIPES)}")
        if self.per_class < 0 or self.draw < 0 or (self.draw and not self.per_class):
            raise UserError(f"per_class and draw must be 0 or more, draw 0 with all labels; got per_class "
                            f"{self.per_class}, draw {self.draw}")  # fmt: skip

    def record(self) -> dict:
        """What the stored result's name covers: every field, but for the list of labels where all are used."""
        fields = config_record(self)
        return fields if self.per_class else {k: v for k, v in fields.items() if k not in ("per_class", "draw")}


def fit_probe(run: Run, data: Dataset, config: ProbeConfig) -> dict:
    """Fit a classifier on frozen features (encoded once) and score it after every epoch (moving_bn: after the last).

    Returns: accuracy (last epoch), accuracies (each epoch scored), train_accuracies, losses (nats, running
        mean of each epoch), confusion (K x K counts, rows are true classes), seconds (features and classifier).
    Raises: UserError for an augmentation (features are encoded once); RuntimeError if the encoder is not
        bit-identical afterwards.
    """
    if config.augmentation and not config.moving_bn:
        raise UserError("a probe works on features of the images as they are: augmentation is for fine-tuning")
    return run.evaluation("probe", config.record(), data, lambda: _fit_probe(run, data, config))


def _fit_probe(run: Run, data: Dataset, config: ProbeConfig) -> dict:
    if config.moving_bn:
        return _fine_tune(run, data, config)
    parts = config.labels, config.scored_on
    x_scored, encoding = zip(*(features(run, data, part, config.on, config.epoch) for part in parts), strict=True)
    started = time.perf_counter()
    x, scored = x_scored
    labels, scored_labels = (split_of(data, part).labels.to(x.device) for part in parts)
    x, labels = _chosen(config, x, labels)
    if config.standardise:
        mean, std = x.mean(0), x.std(0).clamp_min(1e-6)  # a dead feature stays 0
        x, scored = (x - mean) / std, (scored - mean) / std
    classifier = _build_classifier(x.shape[1], len(data.class_names), config).to(x.device)
    given = nn.Identity(), classifier, lambda index, _: x[index]
    result = _train_classifier(*given, labels, scored, scored_labels, config, each_epoch=True)
    return {**result, "seconds": round(sum(encoding) + time.perf_counter() - started, 3)}


def fine_tune(run: Run, data: Dataset, config: ProbeConfig) -> dict:
    """Train encoder and classifier together on the labelled images. Returns what fit_probe does, but scored after the
    last epoch only: a pass over the scored images costs more than an epoch on few labels.

    On an untrained run this is the supervised network of the same shape. The stored encoder does not change.
    """
    return run.evaluation("finetune", config.record(), data, lambda: _fine_tune(run, data, config))


def _fine_tune(run: Run, data: Dataset, config: ProbeConfig) -> dict:
    started = time.perf_counter()
    device = run.config.device
    if config.on == "z" or config.standardise:
        raise UserError("fine-tuning and moving_bn train on images; on 'z' and standardise are for probes on features")
    encoder = run.load_encoder(config.epoch).to(memory_format=torch.channels_last)
    encoder.requires_grad_(not config.moving_bn)
    classifier = _build_classifier(encoder.h_dim, len(data.class_names), config).to(device)
    parts = (split_of(data, part) for part in (config.labels, config.scored_on))
    (images, labels), (scored, scored_labels) = ((part.images[:].to(device), part.labels.to(device)) for part in parts)
    images, labels = _chosen(config, images, labels)
    recipe = view_recipe(config.augmentation) if config.augmentation else None

    def batch(index: Tensor, draws: torch.Generator) -> Tensor:
        if recipe is None:
            return normalise(images[index], data.mean, data.std)
        parameters = draw_parameters(recipe, len(index), *images.shape[1:3], draws)
        return apply_recipe(images[index], recipe, parameters, data.mean, data.std)

    x_scored = normalise(scored, data.mean, data.std)
    result = _train_classifier(
        encoder, classifier, batch, labels, x_scored, scored_labels, config, run.config.precision
    )
    return {**result, "seconds": round(time.perf_counter() - started, 3)}


def _train_classifier(encoder: nn.Module, classifier: nn.Sequential, batch: Callable[[Tensor, torch.Generator], Tensor],
                      labels: Tensor, x_scored: Tensor, labels_scored: Tensor, config: ProbeConfig,
                      precision: str = "fp32", each_epoch: bool = False) -> dict:  # fmt: skip
    """Cross-entropy by mini-batches; the loop that probe and fine-tuning share.

    Args:
        batch: maps the indices of a batch and the epoch's generator of views to the encoder's input.
        each_epoch: score after each epoch, not after the last only.
    """
    modules = nn.Sequential(encoder, classifier)
    optimizer = build_optimizer(config.optimizer, [modules], config.lr, config.weight_decay, momentum=0.9)
    result = {"accuracies": [], "train_accuracies": [], "losses": []}
    step, steps = 0, len(batches(torch.arange(len(labels)), config.batch_size)) * config.epochs
    for epoch in range(1, config.epochs + 1):
        modules.train()
        total, correct = torch.zeros((), device=labels.device), torch.zeros((), device=labels.device)
        order = torch.randperm(len(labels), generator=generator(config.seed, "order", epoch))
        draws = generator(config.seed, "views", epoch)
        for index in batches(order.to(labels.device), config.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * lr_factor(config.schedule, step, steps)
            x = batch(index, draws)
            with _autocast(x.device, precision):
                logits = modules(x)  # (N, K)
            loss = F.cross_entropy(logits.float(), labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            total += loss.detach() * len(index)
            correct += (logits.argmax(1) == labels[index]).sum()
        if not math.isfinite(total.item()):
            raise UserError(f"the classifier's loss is {total.item()} in epoch {epoch}; lower its lr ({config.lr:g})")
        result["losses"].append(total.item() / len(labels))
        result["train_accuracies"].append(correct.item() / len(labels))
        if each_epoch or epoch == config.epochs:
            predicted = _predict(modules, x_scored, precision)
            result["accuracies"].append((predicted == labels_scored).sum().item() / len(labels_scored))
    classes = classifier[-1].out_features
    counts = torch.bincount(labels_scored * classes + predicted, minlength=classes**2)
    return {**result, "accuracy": result["accuracies"][-1], "confusion": counts.view(classes, classes).tolist()}


@torch.no_grad()
def _predict(modules: nn.Module, x: Tensor, precision: str) -> Tensor:
    modules.eval()
    with _autocast(x.device, precision):
        return torch.cat([modules(part).argmax(1) for part in x.split(ENCODE_BATCH)])


def _autocast(device: torch.device, precision: str):
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _chosen(config: ProbeConfig, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if not config.per_class:
        return x, labels
    rows = balanced_rows(labels.cpu(), config.per_class, config.draw).to(x.device)
    return x[rows], labels[rows]


def balanced_rows(labels: Tensor, per_class: int, draw: int) -> Tensor:
    """Rows of `per_class` images of each class, sorted: a fixed list for each `draw`, whatever the run's seed.

    Shorter lists of a draw are contained in its longer ones.
    Args:
        labels: int64 (N,), on the CPU.
    Raises: UserError if a class has too few images.
    """
    rows = []
    for label in range(int(labels.max()) + 1):
        of_class = (labels == label).nonzero().flatten()
        if len(of_class) < per_class:
            raise UserError(f"per_class {per_class} is more than the {len(of_class)} labelled images of class {label}")
        order = torch.randperm(len(of_class), generator=generator(draw, "labels", label))
        rows.append(of_class[order[:per_class]])
    return torch.cat(rows).sort().values


def _build_classifier(width: int, classes: int, config: ProbeConfig) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "weights"))
        if not config.hidden:
            return nn.Sequential(nn.Linear(width, classes))
        return nn.Sequential(nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, classes))


def split_of(data: Dataset, limits: tuple[int, int] | None, field: str = "labels or scored_on") -> Split:
    """A range of the training split (streamed images are not read yet), or the test split (None).

    Raises: UserError naming `field` if the range reaches outside.
    """
    if limits is None:
        return data.test
    if not 0 <= limits[0] < limits[1] <= len(data.train):
        raise UserError(f"{field} {tuple(limits)} is not a range within the {len(data.train):,} training images of "
                        f"{data.name}")  # fmt: skip
    return data.train.part(*limits)


# ---- features ---------------------------------------------------------------------------------------------


_kept: OrderedDict[tuple, tuple[Tensor, float]] = OrderedDict()  # h and the seconds it took


def features(run: Run, data: Dataset, part: tuple[int, int] | None, on: str = "h",
              epoch: int | None = None) -> tuple[Tensor, float]:  # fmt: skip
    """h (N, H_dim), or z (N, D), of the images of `part` (as split_of), and the seconds of encoding them.

    Probes and kNN of the same runs ask for the same images: the last gigabyte of h is kept, with the time it took.
    """
    images = split_of(data, part).images
    weights, limits = run.record["files"].get("encoder.safetensors"), part and tuple(part)
    key = str(run.path.resolve()), weights, epoch, limits, data.fingerprint
    if key not in _kept:
        started = time.perf_counter()
        h = encode(run.load_encoder(epoch), images, data, run.config.device)
        _kept[key] = h, time.perf_counter() - started
        while len(_kept) > 1 and sum(h.nbytes for h, _ in _kept.values()) > KEPT_BYTES:
            _kept.popitem(last=False)
    h, seconds = _kept[key]
    if on == "h":
        return h, seconds
    return outputs(run.load_projection_head(), h.split(ENCODE_BATCH), run.config.device), seconds


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Eval mode, no gradients; afterwards every parameter and buffer must be bit-identical.

    Raises: RuntimeError if one is not (BN statistics that moved, say).
    """
    before = _digest(module)
    module.eval()
    with torch.no_grad():
        yield module
    if _digest(module) != before:
        raise RuntimeError("the encoder changed while it was to be frozen")


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(
            name.encode() + tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def encode(module: nn.Module, images: Tensor, data: Dataset, device: str = "cpu") -> Tensor:
    """Features of uint8 images (N, S, S, C) in float32, shape (N, H_dim), on the device; eval mode, no gradient."""
    with feed(images, torch.arange(len(images)).split(ENCODE_BATCH)) as parts:
        return outputs(module, (normalise(part.to(device), data.mean, data.std) for part in parts), device)


def outputs(module: nn.Module, parts: Iterable[Tensor], device: str) -> Tensor:
    """What a frozen network makes of its input, given in parts: float32, on the device."""
    advice = "try a smaller simclr_core.evaluate.ENCODE_BATCH, or an encoder of smaller width"
    with enough_memory(f"encoding images {ENCODE_BATCH} at a time on {device}", advice), frozen(module) as network:
        return torch.cat([network(part.to(device)).float() for part in parts])


# ---- k nearest neighbours -----------------------------------------------------------------------------------


def knn(run: Run, data: Dataset, labels: tuple[int, int], k: int = 10, temperature: float | None = None,
        scored_on: tuple[int, int] | None = None, epoch: int | None = None) -> dict:  # fmt: skip
    """Accuracy of cosine kNN on L2-normalised h, labelled images against the test split, or a range cut from train;
    after the last epoch, or a kept one. Stored in the run."""

    def compute() -> dict:
        (h, seconds), (h_test, test_seconds) = (features(run, data, part, epoch=epoch) for part in (labels, scored_on))
        classes, classes_test = (split_of(data, part).labels.to(h.device) for part in (labels, scored_on))
        started = time.perf_counter()
        accuracy = knn_accuracy(h, classes, h_test, classes_test, k, temperature)
        return {"accuracy": accuracy,
                "seconds": round(seconds + test_seconds + time.perf_counter() - started, 3)}  # fmt: skip

    config = {"labels": list(labels), "scored_on": scored_on and list(scored_on), "k": k, "temperature": temperature}
    if epoch is not None:
        config["epoch"] = epoch
    return run.evaluation("knn", config, data, compute)


def knn_accuracy(h: Tensor, labels: Tensor, h_test: Tensor, labels_test: Tensor, k: int,
                 temperature: float | None = None) -> float:  # fmt: skip
    """Accuracy of a vote among the k nearest by cosine similarity.

    Args:
        h, h_test: features (N, H_dim) and (M, H_dim); normalised here. labels: int64 (N,) and (M,).
        temperature: None: one neighbour, one vote; else votes weigh exp(similarity / temperature)
            (Wu et al. 2018, arXiv 1805.01978; lightly's k = 200 uses 0.1). Ties go to the smaller class number.
    """
    if not 1 <= k <= len(h):
        raise UserError(f"k must lie between 1 and the {len(h)} labelled images, got {k}")
    if temperature is not None and not temperature >= 1 / 80:  # a sum of exp(1 / temperature) must stay within fp32
        raise UserError(f"temperature must be at least 1 / 80, got {temperature}")
    h, h_test = F.normalize(h), F.normalize(h_test)
    classes, correct = int(labels.max()) + 1, 0
    for part, truth in zip(h_test.split(ENCODE_BATCH), labels_test.split(ENCODE_BATCH), strict=True):
        similarity, index = (part @ h.T).topk(k, dim=1)  # (M, k)
        weights = torch.ones_like(similarity) if temperature is None else (similarity / temperature).exp()
        votes = torch.zeros(len(part), classes, device=h.device).scatter_add_(1, labels[index], weights)
        correct += int((votes.argmax(1) == truth).sum())
    return correct / len(h_test)


# ---- pictures -----------------------------------------------------------------------------------------------


def picture_views(run: Run, data: Dataset, images: int = 8, pairs: int = 3) -> dict:
    """The first training images of the run and view pairs of each, as the run would see them.

    Returns: images: packed uint8 (images, S, S, C); views: packed uint8 (images, 2 pairs, S, S, C), view 1 and 2
        in turn. Normalisation is undone for the picture.
    """

    def compute() -> dict:
        start = run.config.images[0]
        chosen = data.train.images[start : start + images]
        recipe, draws = view_recipe(run.config.augmentation, run.config.strength), generator(run.config.seed, "views")
        views = [
            _picture(x, data) for _ in range(pairs) for x in make_views(chosen, recipe, data.mean, data.std, draws)
        ]
        return {"images": pack_array(chosen.numpy()), "views": pack_array(torch.stack(views, 1).numpy())}

    return run.evaluation("views", {"images": images, "pairs": pairs}, data, compute)


def _picture(x: Tensor, data: Dataset) -> Tensor:
    """Normalised (N, C, S, S) back to uint8 (N, S, S, C)."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
    return ((x.cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
