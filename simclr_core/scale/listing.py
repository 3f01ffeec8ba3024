"""stream:<path>: what an image folder or WebDataset shards hold, listed once.

<path>/train and <path>/test hold images by class, or shards: *.tar with <key>.jpg (or .png, ...)
and <key>.cls beside it, the class. Up to STATISTICS_IMAGES images, mean and standard deviation are
those of the data set in memory.
"""

import hashlib
import io
import itertools
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simclr_core.data.cache import kept_by_one
from simclr_core.data.dataset import Dataset, Split, check_name
from simclr_core.data.folder import IMAGE_SUFFIXES, list_folder, put_in_order
from simclr_core.data.source import code_digests
from simclr_core.errors import DataNotFound, UserError
from simclr_core.scale.streaming import READ_AT_ONCE, Index, StreamedImages, digest

STATISTICS_IMAGES = 10_000  # for mean and std, evenly spaced; ours: sure to a few tenths of 1 %
PROGRESS_SECONDS = 10.0  # between two words on how far the listing is
LARGEST_FILE = 1 << 28  # bytes of one image; LARGEST_IMAGE uncompressed pixels are 150 MB
LONGEST_CLASS = 200  # bytes of a .cls file
Listed = tuple[int, int, bytes, str]  # an image: offset, size, digest, class
Member = tuple[str, str, tarfile.TarInfo]  # a file in a shard: key, suffix, header


def load_stream(root: Path, name: str, image_size: int) -> Dataset:
    """Raises: UserError, DataNotFound as load_dataset does."""
    check_name(str(root), "image folder")
    sharded = any(root.glob("train/*.tar")) or any(root.glob("test/*.tar"))
    paths, listing = _list_shards(root) if sharded else _list_images(root)
    kind = "WebDataset shards" if sharded else "image folder"
    how = f"{code_digests(__name__)} {STATISTICS_IMAGES} {image_size} {kind} {listing}"
    key = f"stream-{hashlib.sha256(how.encode()).hexdigest()[:24]}.index"
    busy = f"{root}: another process is listing it; waiting for it"
    content = kept_by_one(key, busy, lambda: _build(root, paths, sharded, image_size))
    kept = torch.load(io.BytesIO(content), weights_only=True)
    splits = []
    for index in (Index(**kept[split]) for split in ("train", "test")):
        images = StreamedImages(root, index, image_size, range(len(index.labels)))
        splits.append(Split(images, index.labels))
    source = f"{kind}, streamed, every image resized to {image_size} x {image_size} RGB"
    return Dataset(name, *splits, *kept["facts"], source)


def _list_images(root: Path) -> tuple[dict[str, list[str]], str]:
    splits, listing = list_folder(root)
    ordered = {split: put_in_order(files) for split, files in splits.items()}
    return {split: [path for *_, path in files] for split, files in ordered.items()}, listing


def _list_shards(root: Path) -> tuple[dict[str, list[str]], str]:
    """The shards of each split, and a checksum of their names, sizes and dates."""
    splits, listing = {}, hashlib.sha256()
    for split in ("train", "test"):
        shards = sorted((root / split).glob("*.tar"))
        if not shards:
            raise DataNotFound(f"{root / split} holds no *.tar shards as the other; add some")
        for path in shards:
            check_name(path.name, "shard")
            if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
                odd = f"is not a file, or a link to nothing or out of {root}"
                raise UserError(f"{path} {odd}; copy it there")
            status = path.stat()
            listing.update(f"{path}|{status.st_size}|{status.st_mtime_ns}\n".encode())
        splits[split] = list(map(str, shards))
    return splits, listing.hexdigest()


def _build(root: Path, paths: dict[str, list[str]], sharded: bool, image_size: int) -> bytes:
    read, order = (_read_shard, _numbers_first) if sharded else (_read_image, None)
    listed = {split: _list(root, paths[split], read) for split in paths}
    classes, test_classes = (set(listed[split][1]) for split in ("train", "test"))
    class_names = tuple(sorted(classes, key=order))
    if odd := ", ".join(sorted(test_classes - classes)):
        raise UserError(f"{root}: test holds classes that train does not: {odd}; remove them")
    numbers = {label: number for number, label in enumerate(class_names)}
    kept: dict = {}
    for split, (places, labels) in listed.items():
        kept[split] = {**places, "labels": torch.tensor([numbers[label] for label in labels])}
    index = Index(**kept["train"])
    images = StreamedImages(root, index, image_size, range(len(index.labels)))
    kept["facts"] = class_names, *_statistics(images)
    torch.save(kept, buffer := io.BytesIO())
    return buffer.getvalue()


def _numbers_first(label: str) -> tuple[int, str]:
    return (int(label) if label.isascii() and label.isdecimal() else -1), label


def _statistics(images: StreamedImages) -> Iterator[tuple[float, ...]]:
    """Mean and std of each channel on the [0, 1] scale, to four digits as in memory."""
    count = min(len(images), STATISTICS_IMAGES)
    spaced = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
    total = squares = pixels = 0
    with images.feed(spaced.split(READ_AT_ONCE)) as parts:
        for part in parts:
            values = part.view(-1, 3).double() / 255
            pixels += len(values)
            total += values.sum(0)
            squares += values.square().sum(0)
    mean = total / pixels
    variance = (squares - pixels * mean.square()) / (pixels - 1)
    std = variance.clamp_min(0).sqrt().clamp_min(0.01)
    return (tuple(round(value, 4) for value in values.tolist()) for values in (mean, std))


def _list(root: Path, paths: list[str], read: Callable) -> tuple[dict[str, Tensor], list[str]]:
    """Where the images of these files lie, as in an Index, and the class of each.

    `read` lists the images of one file; how far it is, is said now and then.
    """
    each = len(paths) // 1000 + 1  # files a thread takes at a time
    chunks = [paths[k : k + each] for k in range(0, len(paths), each)]
    files, said = [], time.monotonic()
    with ThreadPoolExecutor() as pool:
        for listed in pool.map(lambda chunk: list(map(read, chunk)), chunks):
            files += listed
            if time.monotonic() - said > PROGRESS_SECONDS:
                said, done = time.monotonic(), f"{len(files):,} of {len(paths):,} files"
                print(f"{root}: {done} read for their checksums, once", file=sys.stderr, flush=True)
    offset, size, digests, labels = zip(*itertools.chain(*files), strict=True)
    names = np.array([os.path.relpath(path, root).encode() for path in paths])
    places = {"offset": torch.tensor(offset), "size": torch.tensor(size)}
    places["file"] = torch.arange(len(files)).repeat_interleave(torch.tensor(list(map(len, files))))
    places["paths"] = torch.from_numpy(names.view(np.uint8).reshape(len(paths), -1))
    places["digest"] = torch.frombuffer(bytearray().join(digests), dtype=torch.uint8).view(-1, 16)
    return places, list(labels)


def _read_image(path: str) -> list[Listed]:
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise UserError(f"{path} has more than {LARGEST_FILE:,} bytes; shrink the image")
    return [(0, len(content), digest(content), Path(path).parent.name)]


def _read_shard(path: str) -> list[Listed]:
    try:
        with tarfile.open(path, "r:") as tar:
            samples = itertools.groupby(_members(tar, path), key=lambda member: member[0])
            listed = [_read_sample(f"{path}: {key}", tar, list(found)) for key, found in samples]
    except UserError:
        raise
    except Exception as error:  # tarfile raises many kinds on what is no archive
        why = f"{type(error).__name__}: {error}"
        message = f"{path} is no uncompressed tar archive, or damaged ({why}); write it anew"
        raise UserError(message) from error
    if not listed:
        raise UserError(f"{path} holds no image; remove it")
    return listed


def _members(tar: tarfile.TarFile, path: str) -> Iterator[Member]:
    """WebDataset's key is the name up to the first dot of its last part; hidden files are none."""
    for member in tar:
        tar.members = []  # tarfile would keep them all
        if not (member.isreg() or member.isdir()) or member.issparse() or member.size < 0:
            odd = "a link, a device or a sparse file"
            raise UserError(f"{path} holds {member.name!r}, {odd}; write it with plain files")
        folder, slash, file = member.name.rpartition("/")
        stem, _, suffix = file.partition(".")
        if member.isreg() and not file.startswith((".", "__")):
            yield folder + slash + stem, suffix.lower(), member


def _read_sample(where: str, tar: tarfile.TarFile, members: list[Member]) -> Listed:
    check_name(where, "shard")
    images = [member for _, suffix, member in members if f".{suffix}" in IMAGE_SUFFIXES]
    labels = [member for _, suffix, member in members if suffix == "cls"]
    if len(images) != 1 or len(labels) != 1:
        expected = f"one image ({', '.join(sorted(IMAGE_SUFFIXES))}) and one .cls"
        found = ", ".join(suffix or "no suffix" for _, suffix, _ in members)
        raise UserError(f"{where} has {found}; expected {expected}")
    (image,), (label,) = images, labels
    if image.size > LARGEST_FILE or label.size > LONGEST_CLASS:
        raise UserError(f"{where}: image of {image.size:,} and class of {label.size:,} bytes; "
                        f"at most {LARGEST_FILE:,} and {LONGEST_CLASS}")  # fmt: skip
    content = tar.extractfile(image).read()
    name = tar.extractfile(label).read().decode(errors="surrogateescape").strip()
    check_name(name, f"{where}: class")
    if not name:
        raise UserError(f"{where}: the class is empty; write a number or a name")
    return image.offset_data, image.size, digest(content), name
