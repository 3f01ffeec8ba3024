"""Images as one uint8 tensor per split, found, checked, decoded once and fingerprinted; or streamed (streaming.py).

Shape letters: N images, H height, W width, C channels.
Looked for in `data_dir`, then `$SIMCLR_DATA`, then `data/`; only then downloaded (torchvision's own download).
"""

import gzip
import hashlib
import math
import os
import re
import shutil
import sys
import tarfile
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor

from simclr_core.errors import DataNotFound, StoreError, UserError

if TYPE_CHECKING:
    from simclr_core.streaming import StreamedImages

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Per-channel mean and standard deviation on the [0, 1] scale.
MNIST_STATISTICS = ((0.1307,), (0.3081,))  # R2, and the usual figures of the MNIST training images
CIFAR10_STATISTICS = ((0.5,) * 3, (0.5,) * 3)  # R2 normalises CIFAR-10 with 0.5/0.5
# MD5 of the official files, unpacked: the images' identity, whatever mirror they came from.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
MNIST_BYTES = {  # header of 16 or 8 bytes + 28 x 28 pixels or one label an image
    "train-images-idx3-ubyte": 16 + 60_000 * 784,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 784,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}
LARGEST_IMAGE = 50_000_000  # pixels; Pillow's own warning starts at 89 million: a decompression bomb, not a photo
LARGEST_ARCHIVE = 1 << 30  # bytes unpacked; CIFAR-10 without any compression is a fifth of it
MOST_MEMBERS = 200_000  # of an archive; CIFAR-10 has 60,000 images
# Sides of a user's images in pixels: 32 as CIFAR-10's; 8, of which ResNet's three halvings leave one; 1,024 is ours,
# four times what ImageNet is usually kept at.
OWN_IMAGE_SIZE, SMALLEST_SIDE, LARGEST_SIDE = 32, 8, 1024
DECODER_VERSION = 2  # raise it whenever a change to the reading of images moves a pixel or an order
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # whatever the name says: never PostScript
DOWNLOADED = {"mnist": "MNIST/raw", "cifar10": "cifar-10-batches-py"}  # torchvision's folders
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


@dataclass(frozen=True)
class Split:
    """images: uint8 (N, H, W, C), held in memory or streamed; labels: int64 (N,)."""

    images: "Tensor | StreamedImages"
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def part(self, start: int, stop: int) -> "Split":
        """A range of it; streamed images are not read yet."""
        streamed = not isinstance(self.images, Tensor)
        return Split(self.images.part(start, stop) if streamed else self.images[start:stop], self.labels[start:stop])


@contextmanager
def feed(images: "Tensor | StreamedImages", parts: Sequence[Tensor]) -> Iterator[Iterator[Tensor]]:
    """The images of each list of rows (int64, on the CPU) in turn, on the device that the images are on.

    Raises: UserError for a streamed image that cannot be read.
    """
    if isinstance(images, Tensor):  # rows as a CPU tensor would make a GPU wait
        yield (images[rows.to(images.device, non_blocking=True)] for rows in parts)
    else:
        with images.feed(parts) as batches:
            yield batches


def shuffled(images: "Tensor | StreamedImages", generator: torch.Generator) -> Tensor:
    """A fresh order of all rows, int64 (N,)."""
    if isinstance(images, Tensor):
        return torch.randperm(len(images), generator=generator)
    return images.shuffled(generator)


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
        """SHA-256 of shapes, pixels and labels of both splits, as hex."""
        if self.recorded:
            return self.recorded["fingerprint"]
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(repr(tuple(split.images.shape)).encode())
            held = isinstance(split.images, Tensor)
            digest.update(np.ascontiguousarray(split.images.numpy()) if held else split.images.identity())
            digest.update(np.ascontiguousarray(split.labels.numpy()))
        return digest.hexdigest()

    def record(self) -> dict:
        """What a run folder keeps of its data: enough to draw every figure without the images."""
        return self.recorded or {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "train": len(self.train),
            "test": len(self.test),
            "image_shape": list(self.train.images.shape[1:]),
            "class_names": list(self.class_names),
            "mean": list(self.mean),
            "std": list(self.std),
        }


@dataclass(frozen=True)
class RecordedSplit:
    """The size of a split whose images are not here."""

    size: int
    name: str

    def __len__(self) -> int:
        return self.size

    def __getattr__(self, attribute: str):
        if attribute in ("images", "labels", "part"):
            raise DataNotFound(
                f"{self.name}: its images are not here (stored runs only), and this result is not among the "
                "stored ones; run again with the data (--data DIR)"
            )
        raise AttributeError(attribute)


def dataset_from_record(record: dict) -> Dataset:
    """The data set a stored run was made with, without its images; its fingerprint is taken as recorded.

    Raises: StoreError if the record cannot be one.
    """
    try:
        texts = [record[key] for key in ("name", "source", "fingerprint")] + record["class_names"]
        counts = [record["train"], record["test"], *record["image_shape"]]
        numbers = record["mean"] + record["std"]
        _, _, channels = record["image_shape"]
        if not (all(isinstance(text, str) for text in texts) and all(type(count) is int for count in counts)
                and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
                and min(counts) >= 0 and max(counts[:2]) < 1 << 40 and math.prod(counts[2:]) <= LARGEST_IMAGE * 3
                and len(record["mean"]) == len(record["std"]) == channels):  # fmt: skip
            raise ValueError
        for text in texts:
            check_name(text, "class or data set")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"the record of the data of a stored run is not one ({error!r}); remove that run") from error
    train, test = (RecordedSplit(record[split], record["name"]) for split in ("train", "test"))
    identity = (tuple(record[key]) for key in ("class_names", "mean", "std"))
    return Dataset(record["name"], train, test, *identity, record["source"], record)


def load_dataset(name: str, data_dir: str | Path | None = None, download: bool = True) -> Dataset:
    """Load a data set by name.

    Args:
        name: mnist, cifar10, digits, shapes, folder:<path> (<path>/{train,test}/<class>/<image>), or stream:<path>, the
            same or WebDataset shards, left on the disk. <path>@64: images of 64 x 64 pixels instead of 32.
        data_dir: looked in first; must exist when given.
        download: fetch what is missing, into data_dir or data/.
    Raises: UserError for an unknown name, a missing folder or a damaged file; DataNotFound if there are no files.
    """
    if data_dir is not None and not Path(data_dir).is_dir():
        raise UserError(f"data folder {str(data_dir)!r} does not exist; give an existing folder with --data")
    kind, _, place = name.partition(":")
    if kind in ("folder", "stream") and place:
        return _load_own(kind, place, name)
    if name not in _LOADERS:
        known = ", ".join([*_LOADERS, "folder:<path>", "stream:<path>"])
        raise UserError(f"unknown data set {name!r}; known are {known}")
    return _LOADERS[name](data_dir, download)


def search_folders(data_dir: str | Path | None) -> list[Path]:
    """Folders looked in for data sets, in order; $SIMCLR_DATA may name several, separated as in $PATH."""
    given = [data_dir, *os.environ.get("SIMCLR_DATA", "").split(os.pathsep), "data"]
    return [Path(folder) for folder in dict.fromkeys(given) if folder]


def _not_found(name: str, folders: list[Path], layouts: str, cause: str) -> DataNotFound:
    looked = ", ".join(str(folder) for folder in folders)
    return DataNotFound(
        f"{name} not found: looked in {looked} for {layouts}; {cause}. "
        f"Put the files there, name their folder with --data DIR or $SIMCLR_DATA, or connect once to download them"
    )


def _download(name: str, fetch: Callable[[Path], object], data_dir, allowed: bool, folders, layouts: str) -> Path:
    """Run torchvision's download into data_dir or data/, whole or not at all, one process at a time.

    Raises: DataNotFound, in one line instead of torchvision's traceback.
    """
    if not allowed:
        raise _not_found(name, folders, layouts, "downloads are off")
    root = Path(data_dir) if data_dir is not None else Path("data")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(root / f".{name}.lock", f"{name}: another process is downloading it; waiting for it"):
            if not (root / DOWNLOADED[name]).is_dir():  # by another process meanwhile
                staging = root / f".downloading-{name}"  # what a killed process left is of no use
                shutil.rmtree(staging, ignore_errors=True)
                fetch(staging)
                for path in sorted(staging.iterdir()):
                    path.replace(root / path.name)
                staging.rmdir()
    except Exception as error:  # urllib's, torchvision's, and torch's on what lies there in an old layout
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _not_found(name, folders, layouts, f"the download failed ({reason})") from error
    return root


@contextmanager
def one_at_a_time(lock: Path, busy: str, say: Callable | None = None) -> Iterator[None]:
    """Of several processes one goes on, the others say that it is busy and wait; a dead one's lock is free."""
    try:
        held = FileLock(lock).acquire(timeout=0)
    except Timeout:
        say(busy) if say else print(busy, file=sys.stderr, flush=True)
        held = FileLock(lock).acquire()
    with held:
        yield


# ---- MNIST ------------------------------------------------------------------------------------------------


def _load_mnist(data_dir, download: bool) -> Dataset:
    from torchvision.datasets import MNIST

    folders = search_folders(data_dir)
    root = next((f for f in folders if (f / "MNIST/raw").is_dir()), None)
    if root is None:
        layouts = "MNIST/raw/train-images-idx3-ubyte and three more"
        fetch = lambda target: MNIST(str(target), download=True)  # noqa: E731
        root = _download("mnist", fetch, data_dir, download, folders, layouts)
    for file, expected in MNIST_MD5.items():
        _check_mnist_file(root / "MNIST/raw" / file, expected)
    splits = [_read_idx(root / "MNIST/raw", prefix) for prefix in ("train", "t10k")]
    names = tuple(str(digit) for digit in range(10))
    return Dataset("mnist", *splits, names, *MNIST_STATISTICS, "MNIST, the official IDX files (MD5 checked)")


def _read_idx(raw: Path, prefix: str) -> Split:
    """One split of the IDX format: a header of 16 (images) or 8 (labels) bytes, then one byte a pixel or label."""
    images, labels = (np.fromfile(raw / f"{prefix}-{kind}-ubyte", np.uint8, offset=offset)
                      for kind, offset in (("images-idx3", 16), ("labels-idx1", 8)))  # fmt: skip
    return Split(torch.from_numpy(images.reshape(-1, 28, 28, 1)), torch.from_numpy(labels.astype(np.int64)))


def _check_mnist_file(path: Path, md5: str) -> None:
    advice = "delete it and run again to download it, or copy it anew"
    if not path.is_file():
        raise DataNotFound(f"{path} is missing; copy the four raw MNIST files there or delete the folder to download")
    if path.stat().st_size != MNIST_BYTES[path.name]:
        raise UserError(
            f"{path} is damaged: {path.stat().st_size:,} bytes, expected {MNIST_BYTES[path.name]:,}; {advice}"
        )
    if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != md5:
        raise UserError(f"{path} is damaged: its MD5 is not {md5}; {advice}")


# ---- CIFAR-10 ---------------------------------------------------------------------------------------------


def _load_cifar10(data_dir, download: bool) -> Dataset:
    folders = search_folders(data_dir)
    for folder in folders:
        if (folder / "cifar-10-batches-py").is_dir():
            return _read_cifar10_pickles(folder)
        if (folder / "cifar10").is_dir():
            return _load_cifar10_tree(folder / "cifar10")
        archive = next(filter(Path.is_file, sorted(folder.glob("cifar10*.tar.gz"))), None)
        if archive is not None:
            return _load_cifar10_archive(archive)
    from torchvision.datasets import CIFAR10

    layouts = "cifar-10-batches-py/, cifar10/{train,test}/<class>/ or cifar10*.tar.gz"
    fetch = lambda target: CIFAR10(str(target), download=True)  # noqa: E731
    return _read_cifar10_pickles(_download("cifar10", fetch, data_dir, download, folders, layouts))


def _read_cifar10_pickles(root: Path) -> Dataset:
    from torchvision.datasets import CIFAR10

    splits = []
    for train in (True, False):
        try:
            part = CIFAR10(str(root), train=train, download=False)  # checks the MD5 before it unpickles
        except RuntimeError as error:
            folder = root / "cifar-10-batches-py"
            raise UserError(f"{folder} is damaged or incomplete (MD5); delete it to download it again") from error
        splits.append(Split(torch.from_numpy(part.data), torch.tensor(part.targets)))
    source = "CIFAR-10, the official files (MD5 checked)"
    return Dataset("cifar10", *splits, CIFAR10_CLASSES, *CIFAR10_STATISTICS, source)


def _load_cifar10_tree(root: Path) -> Dataset:
    source = "CIFAR-10 from an image-folder tree (not the official pixels if its files were recompressed)"
    return replace(_load_folder(root, "cifar10", 32), mean=CIFAR10_STATISTICS[0], std=CIFAR10_STATISTICS[1],
                   source=source)  # fmt: skip


def _load_cifar10_archive(archive: Path) -> Dataset:
    """cifar10/{train,test}/<class>/<index>.<jpg|png> inside a tar; members are read in memory, nothing unpacked."""

    def refuse(what: str) -> UserError:
        return UserError(f"{archive} {what}; this is no archive of CIFAR-10, remove it")

    def members() -> Iterator[tuple[str, str, str, bytes]]:
        size = 0
        try:
            with gzip.open(archive) as unpacked:  # counted first: a header inside may be a bomb, too
                while block := unpacked.read(1 << 20):
                    size += len(block)
                    if size > LARGEST_ARCHIVE:
                        raise refuse(f"holds more than {LARGEST_ARCHIVE:,} bytes")
            size = 0
            with tarfile.open(archive, "r:gz") as tar:
                for count, member in enumerate(tar, start=1):
                    size += member.size  # of a sparse file, its size when read
                    if size > LARGEST_ARCHIVE or count > MOST_MEMBERS:
                        raise refuse(f"holds more than {LARGEST_ARCHIVE:,} bytes or {MOST_MEMBERS:,} members")
                    parts = Path(member.name).parts
                    if member.name.startswith("/") or ".." in parts:
                        raise refuse(f"holds {member.name!r}, a path out of it")
                    if not (member.isfile() or member.isdir()):
                        raise refuse(f"holds {member.name!r}, a link or a device")
                    if member.isfile() and len(parts) >= 3 and Path(parts[-1]).suffix.lower() in IMAGE_SUFFIXES:
                        yield parts[-3], parts[-2], parts[-1], tar.extractfile(member).read()
        except UserError:
            raise
        except Exception as error:  # tarfile and zlib raise many kinds on what is no archive
            raise UserError(f"{archive} is damaged ({type(error).__name__}: {error}); copy it anew") from error

    def build() -> Dataset:
        splits: dict[str, list] = {"train": [], "test": []}
        for split, label, file, content in members():
            if split in splits:
                splits[split].append((file, label, content))
        if not splits["train"] or not splits["test"]:
            raise UserError(f"{archive}: no cifar10/train/<class>/<image> and cifar10/test/<class>/<image> inside")
        return _decode("cifar10", splits, 32, str(archive))

    jpeg = "recompressed as JPEG, so not the official pixels" if "jpeg" in archive.name else "as the files hold it"
    source = f"CIFAR-10 from the image archive {archive.name} ({jpeg}; official order and labels)"
    with open(archive, "rb") as file:
        key = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    mean, std = CIFAR10_STATISTICS
    return replace(_cached(f"cifar10-{DECODER_VERSION}-{key}", build), mean=mean, std=std, source=source)


# ---- image folders ----------------------------------------------------------------------------------------


def _load_own(kind: str, place: str, name: str) -> Dataset:
    """Every image becomes image_size x image_size RGB: shorter side resized, centre cropped."""
    path, _, side = place.rpartition("@") if re.search(r"@\d+$", place) else (place, "", OWN_IMAGE_SIZE)
    image_size = int(side)
    if not SMALLEST_SIDE <= image_size <= LARGEST_SIDE:
        raise UserError(f"{name!r}: images of {image_size} x {image_size} pixels; expected @{SMALLEST_SIDE} to "
                        f"@{LARGEST_SIDE}")  # fmt: skip
    if kind == "folder":
        return _load_folder(Path(path), name, image_size)
    from simclr_core.streaming import load_stream

    return load_stream(Path(path), name, image_size)


def _load_folder(root: Path, name: str, image_size: int) -> Dataset:
    splits, listing = list_folder(root)
    key = hashlib.sha256(f"{DECODER_VERSION}\n{image_size}\n{listing}".encode()).hexdigest()[:24]
    return replace(_cached(f"folder-{key}", lambda: _decode(name, splits, image_size, str(root))), name=name)


def list_folder(root: Path) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
    """(file name, class, path) of each image <root>/{train,test}/<class>/<image>, by split; and a checksum of all
    paths, sizes and dates.

    Raises: DataNotFound, UserError naming what is missing or odd.
    """
    check_name(str(root), "image folder")
    splits: dict[str, list] = {}
    listing = hashlib.sha256()
    for split in ("train", "test"):
        if not (root / split).is_dir():
            raise DataNotFound(f"image folder {str(root)!r}: {root / split} does not exist; expected "
                               "<path>/{train,test}/<class>/<image>")  # fmt: skip
        splits[split] = []
        for label, entry in _folder_files(root, root / split):
            splits[split].append((entry.name, label, entry.path))
            status = entry.stat()
            listing.update(f"{entry.path}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    classes = {split: {label for _, label, _ in files} for split, files in splits.items()}
    if classes["train"] != classes["test"]:
        odd = ", ".join(sorted(classes["train"] ^ classes["test"]))
        raise UserError(f"image folder {str(root)!r}: train and test differ in their classes ({odd}); "
                        "give both splits the same class folders")  # fmt: skip
    return splits, listing.hexdigest()


def _folder_files(root: Path, split: Path) -> Iterator[tuple[str, os.DirEntry]]:
    """Class and file of each image; refuses an empty class, what is no file, and links out of the tree."""
    inside = root.resolve()
    labels = sorted(path for path in split.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not labels:
        raise UserError(f"image folder: {split} holds no class folder; expected {split}/<class>/<image>")
    for label in labels:
        check_name(label.name, f"image folder {str(root)!r}")
        with os.scandir(label) as entries:
            files = sorted((entry for entry in entries if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES),
                           key=lambda entry: entry.name)  # fmt: skip
        if not files:
            raise UserError(f"image folder: class {label} is empty; put images in it or remove the folder")
        linked = label.is_symlink()
        for entry in files:
            check_name(entry.name, f"image folder: class {label}")
            if not (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)):
                raise UserError(f"image folder: {entry.path} is not a file, or a link to nothing; remove it")
            if (linked or entry.is_symlink()) and not Path(entry.path).resolve().is_relative_to(inside):
                raise UserError(f"image folder: {entry.path} is a link out of {root}; copy the image into the folder")
            yield label.name, entry


def check_name(name: str, where: str) -> None:
    """File and class names reach the terminal and the report. Raises: UserError for what no line of text can hold."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise UserError(f"{where}: the name {name!r} holds a control character or is not UTF-8; rename it")


def put_in_order(files: list[tuple]) -> list[tuple]:
    """(file name, ...) lists: files named by a number in the order of that number, over all classes; others, which
    lie class by class on the disk, mixed by a fixed seed, so that every part of a split holds every class."""
    if all(Path(file).stem.isdecimal() for file, *_ in files):
        return sorted(files, key=lambda item: int(Path(item[0]).stem))
    generator = torch.Generator().manual_seed(0)
    return [files[k] for k in torch.randperm(len(files), generator=generator).tolist()]


def _decode(name: str, splits: dict[str, list], image_size: int, where: str) -> Dataset:
    """Decode (file name, class, path or bytes) lists into a Dataset, in index order where names are numbers."""
    class_names = tuple(sorted({label for _, label, _ in splits["train"]}))
    decoded = {}
    for split, files in splits.items():
        files = put_in_order(files)
        images = np.empty((len(files), image_size, image_size, 3), np.uint8)
        labels = np.empty(len(files), np.int64)
        for k, (file, label, content) in enumerate(files):
            check_name(label, where), check_name(file, where)
            images[k] = read_image(content, image_size, f"{where}: {split}/{label}/{file}")
            if label not in class_names:
                raise UserError(f"{where}: class {label!r} of {split} is not among those of train")
            labels[k] = class_names.index(label)
        decoded[split] = Split(torch.from_numpy(images), torch.from_numpy(labels))
    pixels = decoded["train"].images.reshape(-1, 3).float() / 255
    mean, std = (tuple(round(float(v), 4) for v in stat) for stat in (pixels.mean(0), pixels.std(0).clamp_min(0.01)))
    source = f"image folder, every image resized to {image_size} x {image_size} RGB"
    return Dataset(name, decoded["train"], decoded["test"], class_names, mean, std, source)


def read_image(content: str | bytes, image_size: int, where: str) -> np.ndarray:
    """One image as (image_size, image_size, 3) uint8; greyscale, palette, alpha, CMYK and 16 bit are converted. Of an
    animation, the first picture is read."""
    import io

    from torchvision.transforms import functional as transforms

    source = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(source, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise UserError(f"{where} is {image.width} x {image.height} pixels, more than {LARGEST_IMAGE:,}; "
                                "shrink it")  # fmt: skip
            if image_size**2 * max(image.size) > LARGEST_IMAGE * min(image.size):  # resized, before it is cropped
                raise UserError(f"{where} is {image.width} x {image.height} pixels, too long and thin; crop it")
            if image.mode.startswith("I"):  # 16 or 32 bit grey: Pillow's own conversion would clip at 255
                wide = np.asarray(image, np.float64)
                top = 65535 if image.mode.startswith("I;16") or wide.max() > 255 else 255
                image = Image.fromarray((wide / top * 255).clip(0, 255).astype(np.uint8))
            if image.mode in ("P", "PA", "LA", "RGBA"):  # transparency over white
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
            if image.size != (image_size, image_size):
                image = transforms.center_crop(transforms.resize(image, image_size, antialias=True), image_size)
            return np.asarray(image)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise UserError(f"{where} cannot be read as an image ({type(error).__name__}); mend or remove it") from error


def cache_folder() -> Path:
    """Where decoded data sets are kept."""
    return Path(os.environ.get("SIMCLR_CACHE", "data/cache"))


def check_cache() -> None:
    """Before long work whose result goes there. Raises: UserError if it cannot be written to."""
    folder = cache_folder()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):  # leaves nothing, whatever becomes of the work
            pass
    except OSError as error:
        raise UserError(f"{folder}, where decoded data are kept, cannot be written to ({error.strerror}); name another "
                        "folder with SIMCLR_CACHE") from error  # fmt: skip


def _cached(key: str, build: Callable[[], Dataset]) -> Dataset:
    """Decode once: keep the tensors in <data>/cache/<key>.safetensors; a damaged cache is set aside and rebuilt."""
    import json

    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save

    from simclr_core.runs import set_aside, write_atomically

    path = cache_folder() / f"{key}.safetensors"
    if path.is_file():
        try:
            with safe_open(path, "pt") as file:
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
                text = file.metadata()["dataset"]
                if hashlib.sha256(text.encode()).hexdigest() != file.metadata()["sha256"]:
                    raise ValueError("its record's checksum does not fit")
                meta = json.loads(text)
            splits = [Split(tensors[f"{s}_images"], tensors[f"{s}_labels"]) for s in ("train", "test")]
            dataset = Dataset(meta["name"], *splits, tuple(meta["class_names"]), tuple(meta["mean"]),
                              tuple(meta["std"]), meta["source"])  # fmt: skip
            types = [tensors[key].dtype for key in sorted(tensors)]
            if types == 2 * [torch.uint8, torch.int64] and dataset.fingerprint == meta["fingerprint"]:
                return dataset
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            pass
        set_aside(path, f"{path} is damaged")
    check_cache()
    dataset = build()
    tensors = {f"{s}_{k}": getattr(getattr(dataset, s), k) for s in ("train", "test") for k in ("images", "labels")}
    text = json.dumps(dataset.record())
    write_atomically(path, save(tensors, {"dataset": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}))
    return dataset


# ---- data sets that need no download ----------------------------------------------------------------------


def _load_digits(data_dir, download: bool) -> Dataset:
    """scikit-learn's 1,797 real handwritten 8 x 8 digits, enlarged to 28 x 28 (bilinear).

    The first 1,500 in file order are train, the last 297 test (ours: the set has no official split). Normalised
    with MNIST's figures, whose place it takes.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().unsqueeze(1) / 16  # grey levels 0 to 16
    large = torch.nn.functional.interpolate(small, size=28, mode="bilinear", align_corners=False)
    images = (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    splits = Split(images[:1500], labels[:1500]), Split(images[1500:], labels[1500:])
    names = tuple(str(digit) for digit in range(10))
    source = "scikit-learn's handwritten digits (8 x 8, enlarged to 28 x 28)"
    return Dataset("digits", *splits, names, *MNIST_STATISTICS, source)


SHAPE_CLASSES = ("disc", "ring", "square", "frame", "triangle", "cross", "stripes", "checks", "dots", "gradient")


def _load_shapes(data_dir, download: bool) -> Dataset:
    """Ten classes of coloured shapes and textures, 32 x 32 RGB: 2,000 train and 500 test images, drawn from seeds
    0 and 1. Colours, place, size, angle and noise vary within each class, so colour alone tells nothing."""
    splits = [_draw_shapes(n, seed) for n, seed in ((2_000, 0), (500, 1))]
    source = "shapes: ten classes of coloured shapes and textures, drawn by a seeded generator"
    return Dataset("shapes", *splits, SHAPE_CLASSES, *CIFAR10_STATISTICS, source)


def _draw_shapes(n: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *(shape or (1, 1)), generator=generator) * (high - low) + low

    labels = torch.arange(n) % len(SHAPE_CLASSES)
    axis = torch.linspace(-1, 1, 32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle, size = uniform(0, 2 * math.pi), uniform(0.45, 0.8)
    x, y = x - uniform(-0.3, 0.3), y - uniform(-0.3, 0.3)
    u, v = (x * angle.cos() + y * angle.sin()) / size, (y * angle.cos() - x * angle.sin()) / size
    r, box = (u**2 + v**2).sqrt(), torch.maximum(u.abs(), v.abs())
    wave = uniform(4, 7)
    masks = torch.stack([
        r < 0.9, (r < 1) & (r > 0.6), box < 0.8, (box < 0.95) & (box > 0.55),
        (v > -0.6) & (v < 0.9 - 1.7 * u.abs()), (box < 1) & (torch.minimum(u.abs(), v.abs()) < 0.3),
        (u * wave).sin() > 0, ((u * wave).sin() > 0) ^ ((v * wave).sin() > 0),
        ((u * wave).sin() > 0.4) & ((v * wave).sin() > 0.4), torch.zeros_like(r, dtype=torch.bool),
    ], 1)[torch.arange(n), labels].float()  # fmt: skip
    masks = torch.where((labels == 9)[:, None, None], ((u + 1) / 2).clamp(0, 1), masks)
    figure, ground = (torch.rand(n, 3, 1, 1, generator=generator) for _ in range(2))
    near = (figure - ground).abs().sum(1, keepdim=True) < 0.6  # keep the figure visible
    figure = torch.where(near, (figure + 0.5) % 1, figure)
    images = ground + (figure - ground) * masks[:, None] + 0.06 * torch.randn(n, 3, 32, 32, generator=generator)
    return Split((images.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous(), labels)


_LOADERS: dict[str, Callable[[str | Path | None, bool], Dataset]] = {
    "mnist": _load_mnist,
    "cifar10": _load_cifar10,
    "digits": _load_digits,
    "shapes": _load_shapes,
}
