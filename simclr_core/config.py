"""What defines a pre-training, and the training that it stands for."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from simclr_core.augment import VIEW_RECIPES, ViewRecipe, make_views, view_recipe
from simclr_core.checked import Checked, Count, NotNegative, Positive, Range, at_least, one_of
from simclr_core.data.dataset import Dataset
from simclr_core.errors import UserError
from simclr_core.loss import nt_xent_loss
from simclr_core.model import ENCODERS, HEADS, build_encoder, build_projection_head
from simclr_core.optim import OPTIMIZERS, SCHEDULES, build_optimizer
from simclr_core.seeds import stream_seed
from simclr_core.train import Training

WIDEST = 1 << 16  # of a head: beyond any memory


@dataclass(frozen=True)
class Own:
    """Parts of a training that its caller wrote; None: as the configuration names them."""

    encoder: Callable[[int, int], nn.Module] | None = None  # of channels and side; with an h_dim
    head: Callable[[int], nn.Module] | None = None  # of h_dim
    views: ViewRecipe | Callable | None = None  # views(images, mean, std, generator=g): x_i, x_j
    loss: Callable | None = None  # loss(z_i, z_j)

    def parts(self) -> dict[str, object]:
        return {name: part for name, part in vars(self).items() if part is not None}


@dataclass(frozen=True)
class PretrainConfig(Checked):
    """What defines a pre-training beside the data; every field is part of its identity."""

    dataset: str  # its name, or folder:<path>
    images: Range  # of the training images, first and one past the last; labels are not read
    encoder: one_of(ENCODERS) = "mnist_cnn"
    width: Annotated[Positive, Field(le=16)] = 1.0  # ResNet, ViT; 1: 64 channels first, or a head
    stem: Literal["cifar", "imagenet"] = "cifar"  # ResNet: 3x3, stride 1; or 7x7, stride 2
    init: Literal["random", "imagenet"] = "random"  # imagenet: ResNet of width 1
    objective: Literal["nt_xent", "none"] = "nt_xent"  # none: the encoder as initialised
    augmentation: one_of(VIEW_RECIPES) = "r2"
    strength: NotNegative = 0.5  # s of colour distortion; 0.5 for CIFAR-10 (SimCLR paper, B.9)
    head: one_of(HEADS) = "mlp_no_bn"
    head_hidden: at_least(1, WIDEST) = 64  # hidden width of an MLP head
    head_dim: at_least(1, WIDEST) = 32  # D, width of z (head none: H_dim)
    temperature: Positive = 0.5  # tau
    batch_size: at_least(2) = 256  # N images a step, hence 2N views
    epochs: at_least(1) = 10
    optimizer: one_of(OPTIMIZERS) = "adam"
    lr: Positive = 0.001  # peak learning rate, as it is (not scaled by the batch)
    weight_decay: NotNegative = 0.0
    momentum: NotNegative = 0.9  # sgd, lars and muon
    schedule: one_of(SCHEDULES) = "constant"  # stepped every step
    warmup_epochs: NotNegative = 0.0  # linear, before the schedule
    micro_batch: at_least(0) = 0  # images whose activations are held at once; 0: the whole batch
    batch_norm: Literal["joint", "per_view"] = "joint"  # statistics over both views, or each alone
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast; the loss always fp32
    device: Literal["cpu", "cuda"] = "cpu"
    seed: Annotated[Count, Field(ge=0)] = 0  # weights, order and views
    own: Own = field(default=Own(), metadata={"checked": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        start, stop = self.images
        if not re.fullmatch(r"\w[\w.-]*", self.dataset.partition(":")[0]):  # begins the run's name
            expected = "one such as mnist, or folder:<path>"
            raise UserError(f"dataset {self.dataset!r} is no name; expected {expected}")
        if self.micro_batch == 1:
            raise UserError("micro_batch must be 0 (off) or at least 2 images, got 1")
        if not 0 <= start < stop:
            raise UserError(f"images must be a range (first, one past the last), got {self.images}")
        if self.objective == "none":
            return
        if (self.encoder, self.head) == ("pixels", "none"):
            raise UserError("encoder 'pixels' with head 'none' has nothing to train; "
                            "take objective 'none', or a head")  # fmt: skip
        if self.batch_size > stop - start:
            there = f"the {stop - start} images of the data; make the batch smaller or use more"
            raise UserError(f"batch_size {self.batch_size} is larger than {there}")
        if self.warmup_epochs > self.epochs:
            whole = f"the {self.epochs} epochs of the training; make it shorter"
            raise UserError(f"warmup_epochs {self.warmup_epochs:g} is longer than {whole}")

    def record(self) -> dict:
        return {k: v for k, v in super().record().items() if k != "own"}

    def views(self) -> ViewRecipe:
        """What the augmentation's name stands for."""
        own = self.own.views
        return own if isinstance(own, ViewRecipe) else view_recipe(self.augmentation, self.strength)

    def build_encoder(self, image_shape: tuple[int, int, int]) -> nn.Module:
        """The encoder for images (S, S, C), with its initial weights."""
        side, _, channels = image_shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.seed, "weights"))
            if self.own.encoder:
                return self.own.encoder(channels, side)
            return build_encoder(self.encoder, channels, side, self.width, self.stem, self.init)

    def build_projection_head(self, h_dim: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.seed, "weights", 1))
            if self.own.head:
                return self.own.head(h_dim)
            return build_projection_head(self.head, h_dim, self.head_hidden, self.head_dim)

    def training(self, data: Dataset, kind: Callable[..., Training] = Training) -> Training:
        """The training itself, on the device; `kind`: Training, or what scale makes of it."""
        encoder = self.build_encoder(data.train.images.shape[1:])
        encoder = encoder.to(self.device, memory_format=torch.channels_last)
        head = self.build_projection_head(encoder.h_dim).to(self.device)
        rates = self.lr, self.weight_decay, self.momentum
        views = self.own.views or self.views()
        if isinstance(views, ViewRecipe):
            views = partial(make_views, recipe=views)
        views = partial(views, mean=data.mean, std=data.std)
        same = ("epochs", "batch_size", "schedule", "warmup_epochs", "batch_norm", "precision")
        images = data.train.part(*self.images).images.to(self.device)
        loss = self.own.loss or partial(nt_xent_loss, temperature=self.temperature)
        optimizer = build_optimizer(self.optimizer, (encoder, head), *rates)
        how = {name: getattr(self, name) for name in (*same, "seed")}
        return kind(encoder, head, images, views, loss, optimizer, **how)
