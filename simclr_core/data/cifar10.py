"""CIFAR-10 from its official files, from a tree of images, or from an archive of such a tree."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from simclr_core.data.cache import decoded_folder, decoded_once
from simclr_core.data.dataset import Dataset, Split
from simclr_core.data.folder import IMAGE_SUFFIXES, decode
from simclr_core.errors import UserError

LAYOUTS = "cifar-10-batches-py/, cifar10/{train,test}/<class>/ or cifar10*.tar.gz"
DOWNLOADED = "cifar-10-batches-py"  # where torchvision's download puts it
CLASSES = ("airplane", "automobile", "bird", "cat", "deer",
           "dog", "frog", "horse", "ship", "truck")  # fmt: skip
STATISTICS = ((0.5,) * 3, (0.5,) * 3)  # R2 normalises CIFAR-10 with 0.5/0.5
LARGEST_ARCHIVE = 1 << 30  # bytes unpacked; CIFAR-10 without any compression is a fifth of it
MOST_MEMBERS = 200_000  # of an archive; CIFAR-10 has 60,000 images


def read(folder: Path) -> Dataset | None:
    """The data set in a folder that is searched, None if it is not there.

    Raises: UserError for a damaged file.
    """
    if (folder / DOWNLOADED).is_dir():
        return _read_batches(folder)
    if (folder / "cifar10").is_dir():
        what = "an image-folder tree (not the official pixels if its files were recompressed)"
        dataset = decoded_folder(folder / "cifar10", "cifar10", 32)
    elif archive := next(filter(Path.is_file, sorted(folder.glob("cifar10*.tar.gz"))), None):
        jpeg = "recompressed as JPEG, so not the official pixels" if "jpeg" in archive.name else ""
        pixels = f"{jpeg or 'as the files hold it'}; official order and labels"
        what = f"the image archive {archive.name} ({pixels})"
        with open(archive, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        dataset = decoded_once(f"cifar10 {digest}", __name__, archive, partial(_decode, archive))
    else:
        return None
    return replace(dataset, mean=STATISTICS[0], std=STATISTICS[1], source=f"CIFAR-10 from {what}")


def _read_batches(root: Path) -> Dataset:
    from torchvision.datasets import CIFAR10  # a second of start-up that the others do not need

    try:  # MD5 first, then unpickled
        parts = [CIFAR10(str(root), train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        where = root / DOWNLOADED
        raise UserError(f"{where} is damaged or incomplete (MD5); download it again") from error
    splits = [Split(torch.from_numpy(part.data), torch.tensor(part.targets)) for part in parts]
    source = "CIFAR-10, the official files (MD5 checked)"
    return Dataset("cifar10", *splits, CLASSES, *STATISTICS, source)


def _decode(archive: Path) -> Dataset:
    """cifar10/{train,test}/<class>/<index>.<jpg|png> inside a tar; nothing is unpacked."""
    splits: dict[str, list] = {"train": [], "test": []}
    try:
        for split, label, file, content in _images(archive):
            if split in splits:
                splits[split].append((file, label, content))
    except UserError as error:
        raise UserError(f"{archive} {error}; this is no archive of CIFAR-10, remove it") from error
    except Exception as error:  # tarfile and zlib raise many kinds on what is no archive
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{archive} is damaged ({why}); copy it anew") from error
    if not splits["train"] or not splits["test"]:
        raise UserError(f"{archive}: no cifar10/{{train,test}}/<class>/<image> inside")
    return decode("cifar10", splits, 32, str(archive))


def _images(archive: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """Split, class, file name and content of each image."""
    size, most = 0, f"holds more than {LARGEST_ARCHIVE:,} bytes"
    unpacked = io.BytesIO()  # before tarfile reads it: a header inside may be a bomb, too
    with gzip.open(archive) as file:
        while block := file.read(1 << 20):
            if unpacked.tell() + unpacked.write(block) > LARGEST_ARCHIVE:
                raise UserError(most)
    unpacked.seek(0)
    with tarfile.open(fileobj=unpacked) as tar:
        for count, member in enumerate(tar, start=1):
            size += member.size  # of a sparse file, its size when read
            if size > LARGEST_ARCHIVE or count > MOST_MEMBERS:
                raise UserError(f"{most} or {MOST_MEMBERS:,} members")
            *_, split, label, file = ("", "", "", *Path(member.name).parts)
            if member.name.startswith("/") or ".." in Path(member.name).parts:
                raise UserError(f"holds {member.name!r}, a path out of it")
            if not (member.isfile() or member.isdir()):
                raise UserError(f"holds {member.name!r}, a link or a device")
            if member.isfile() and Path(file).suffix.lower() in IMAGE_SUFFIXES:
                yield split, label, file, tar.extractfile(member).read()
