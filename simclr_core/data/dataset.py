"""What a data set is to a training: two splits of images and labels, and what identifies them.

Shape letters: N images, H height, W width, C channels.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from simclr_core.errors import UserError, in_one_line

# uint8 (N, H, W, C) in memory; or an object that reads them when they are asked for, with `shape`,
# `len`, [rows], `to`, `part`, `feed`, `shuffled` and `identity`.
Images = Tensor | Any


@dataclass(frozen=True)
class Split:
    """images: uint8 (N, H, W, C), held in memory or not; labels: int64 (N,)."""

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def part(self, start: int, stop: int) -> "Split":
        """A range of it; what is not in memory is not read yet."""
        held = isinstance(self.images, Tensor)
        images = self.images[start:stop] if held else self.images.part(start, stop)
        return Split(images, self.labels[start:stop])


def feed(images: Images, parts: Sequence[Tensor]) -> AbstractContextManager[Iterator[Tensor]]:
    """The images of each list of rows (int64, on the CPU) in turn, on the images' device.

    Raises: UserError for an image that cannot be read.
    """
    if not isinstance(images, Tensor):
        return images.feed(parts)
    # rows as a CPU tensor would make a GPU wait
    return nullcontext(images[rows.to(images.device, non_blocking=True)] for rows in parts)


def shuffled(images: Images, generator: torch.Generator) -> Tensor:
    """A fresh order of all rows, int64 (N,)."""
    held = isinstance(images, Tensor)
    return torch.randperm(len(images), generator=generator) if held else images.shuffled(generator)


@dataclass(frozen=True)
class Dataset:
    """Two splits and what identifies them; mean and std per channel on the [0, 1] scale."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str  # in words, for the report
    recorded: dict | None = None  # the record of a data set whose images are not here

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of both splits' shapes, pixels and labels, of mean and std; as hex."""
        if self.recorded:
            return self.recorded["fingerprint"]
        digest = hashlib.sha256()
        for images, labels in ((split.images, split.labels) for split in (self.train, self.test)):
            held = isinstance(images, Tensor)
            digest.update(repr(tuple(images.shape)).encode())
            digest.update(images.contiguous().numpy() if held else images.identity())
            digest.update(labels.contiguous().numpy())
        digest.update(repr([[*map(float, values)] for values in (self.mean, self.std)]).encode())
        return digest.hexdigest()

    def record(self) -> dict:
        """What a run folder keeps of its data: enough to draw every figure without the images."""
        return self.recorded or {
            **{key: getattr(self, key) for key in ("name", "source", "fingerprint")},
            **{key: list(getattr(self, key)) for key in ("class_names", "mean", "std")},
            **{"train": len(self.train), "test": len(self.test)},
            "image_shape": list(self.train.images.shape[1:]),
        }


def check_name(name: str, where: str) -> None:
    """Raises: UserError for a name of a file or class that no line of text can hold."""
    if in_one_line(name) != name:
        odd = "holds a control character or is not UTF-8; rename it"
        raise UserError(f"{where}: the name {name!r} {odd}")
