"""Data sets that need no download: scikit-learn's digits, and shapes drawn from a seed."""

import math

import torch
from torch import Tensor

from simclr_core.data import cifar10, mnist
from simclr_core.data.dataset import Dataset, Split

SHAPE_CLASSES = ("disc", "ring", "square", "frame", "triangle",
                 "cross", "stripes", "checks", "dots", "gradient")  # fmt: skip


def digits() -> Dataset:
    """scikit-learn's 1,797 real handwritten 8 x 8 digits, enlarged to 28 x 28 (bilinear).

    The first 1,500 in file order are train, the last 297 test (ours: the set has no official
    split). Normalised with MNIST's figures, whose place it takes.
    """
    from sklearn.datasets import load_digits  # a second of start-up that the others do not need

    raw = load_digits()
    small = torch.from_numpy(raw.images).float().unsqueeze(1) / 16  # grey levels 0 to 16
    large = torch.nn.functional.interpolate(small, size=28, mode="bilinear", align_corners=False)
    images = (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    whole = Split(images, torch.from_numpy(raw.target).long())
    splits = whole.part(0, 1500), whole.part(1500, len(whole))
    source = "scikit-learn's handwritten digits (8 x 8, enlarged to 28 x 28)"
    return Dataset("digits", *splits, tuple("0123456789"), *mnist.STATISTICS, source)


def shapes() -> Dataset:
    """Ten classes of coloured shapes and textures: 2,000 train and 500 test images, 32 x 32 RGB.

    Colours, place, size, angle and noise vary within each class, so colour alone tells nothing.
    """
    source = "shapes: ten classes of coloured shapes and textures, drawn by a seeded generator"
    splits = _draw_shapes(2_000, seed=0), _draw_shapes(500, seed=1)
    return Dataset("shapes", *splits, SHAPE_CLASSES, *cifar10.STATISTICS, source)


def _draw_shapes(n: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % len(SHAPE_CLASSES)
    masks = _shape_masks(labels, generator)
    figure, ground = (torch.rand(n, 3, 1, 1, generator=generator) for _ in range(2))
    near = (figure - ground).abs().sum(1, keepdim=True) < 0.6  # keep the figure visible
    figure = torch.where(near, (figure + 0.5) % 1, figure)
    noise = 0.06 * torch.randn(n, 3, 32, 32, generator=generator)
    images = (ground + (figure - ground) * masks[:, None] + noise).clamp(0, 1) * 255
    return Split(images.to(torch.uint8).permute(0, 2, 3, 1).contiguous(), labels)


def _shape_masks(labels: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 32, 32) in [0, 1], 1 where the figure is."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(len(labels), 1, 1, generator=generator) * (high - low) + low

    axis = torch.linspace(-1, 1, 32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle, size = uniform(0, 2 * math.pi), uniform(0.45, 0.8)
    x, y = x - uniform(-0.3, 0.3), y - uniform(-0.3, 0.3)
    u = (x * angle.cos() + y * angle.sin()) / size
    v = (y * angle.cos() - x * angle.sin()) / size
    r, box = (u**2 + v**2).sqrt(), torch.maximum(u.abs(), v.abs())
    wave = uniform(4, 7)
    across, along = (u * wave).sin(), (v * wave).sin()
    masks = torch.stack([
        r < 0.9, (r < 1) & (r > 0.6), box < 0.8, (box < 0.95) & (box > 0.55),
        (v > -0.6) & (v < 0.9 - 1.7 * u.abs()),
        (box < 1) & (torch.minimum(u.abs(), v.abs()) < 0.3),
        across > 0, (across > 0) ^ (along > 0), (across > 0.4) & (along > 0.4),
        torch.zeros_like(r, dtype=torch.bool),
    ], 1)[torch.arange(len(labels)), labels].float()  # fmt: skip
    return torch.where((labels == 9)[:, None, None], ((u + 1) / 2).clamp(0, 1), masks)
