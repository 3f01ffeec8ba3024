"""MNIST from its four official files, torchvision's layout."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch

from simclr_core.data.dataset import Dataset, Split
from simclr_core.errors import DataNotFound, UserError

LAYOUTS = "MNIST/raw/train-images-idx3-ubyte and three more"
DOWNLOADED = "MNIST/raw"  # where torchvision's download puts them
# Per-channel mean and standard deviation on the [0, 1] scale: R2, and the usual figures of MNIST.
STATISTICS = ((0.1307,), (0.3081,))
# MD5 of the official files, unpacked: the images' identity, whatever mirror they came from.
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def read(folder: Path) -> Dataset | None:
    """The data set in a folder that is searched, None if it is not there.

    Raises: DataNotFound, UserError for a missing or damaged file.
    """
    raw = folder / DOWNLOADED
    if not raw.is_dir():
        return None
    for name, md5 in MD5.items():
        _check(raw / name, md5)
    splits = [_read_idx(raw, prefix) for prefix in ("train", "t10k")]
    source = "MNIST, the official IDX files (MD5 checked)"
    return Dataset("mnist", *splits, tuple("0123456789"), *STATISTICS, source)


def _check(path: Path, expected: str) -> None:
    if not path.is_file():
        raise DataNotFound(f"{path} is missing; copy it there or delete the folder to download")
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    if md5 != expected:
        raise UserError(f"{path} is damaged: its MD5 is not {expected} ({path.stat().st_size:,} "
                        "bytes); delete it to download it again, or copy it anew")  # fmt: skip


def _read_idx(raw: Path, prefix: str) -> Split:
    """IDX: a header of 16 (images) or 8 (labels) bytes, then one byte a pixel or label."""
    images = np.fromfile(raw / f"{prefix}-images-idx3-ubyte", np.uint8, offset=16)
    labels = np.fromfile(raw / f"{prefix}-labels-idx1-ubyte", np.uint8, offset=8)
    return Split(torch.from_numpy(images).view(-1, 28, 28, 1), torch.from_numpy(labels).long())
