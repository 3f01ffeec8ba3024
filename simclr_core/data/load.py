"""Data sets by name: looked for in `data_dir`, then $SIMCLR_DATA, then data/; then downloaded."""

import importlib
import os
import re
import shutil
from pathlib import Path

from simclr_core.data import cifar10, made, mnist
from simclr_core.data.cache import decoded_folder
from simclr_core.data.dataset import Dataset
from simclr_core.data.files import one_at_a_time
from simclr_core.errors import DataNotFound, UserError

# Sides of a user's images in pixels: 32 as CIFAR-10's; 8, of which ResNet's three halvings leave
# one; 1,024 is ours, four times what ImageNet is usually kept at.
OWN_IMAGE_SIZE, SMALLEST_SIDE, LARGEST_SIDE = 32, 8, 1024


def _streamed(path: Path, name: str, image_size: int) -> Dataset:
    """The one mention of `scale`, which builds upon this package; loaded when it is asked for."""
    return importlib.import_module("simclr_core.scale").load_stream(path, name, image_size)


FILES = {"mnist": mnist, "cifar10": cifar10}
MADE = {"digits": made.digits, "shapes": made.shapes}
IMAGES = {"folder": decoded_folder, "stream": _streamed}


def load_dataset(name: str, data_dir: str | Path | None = None, download: bool = True) -> Dataset:
    """Load a data set by name.

    Args:
        name: mnist, cifar10, digits, shapes, folder:<path> (<path>/{train,test}/<class>/<image>),
            or stream:<path>, the same or WebDataset shards, left on the disk. <path>@64: images of
            64 x 64 pixels instead of 32.
        data_dir: looked in first; must exist when given.
        download: fetch what is missing, into data_dir or data/.
    Raises: UserError for an unknown name, a missing folder or a damaged file; DataNotFound if there
        are no files.
    """
    if data_dir is not None and not Path(data_dir).is_dir():
        raise UserError(f"data folder {str(data_dir)!r} does not exist; name another with --data")
    kind, _, place = name.partition(":")
    if place and kind in IMAGES:
        path, side = re.fullmatch(r"(.*?)(?:@(\d{1,9}))?", place, re.DOTALL).groups()
        image_size = int(side or OWN_IMAGE_SIZE)
        if not SMALLEST_SIDE <= image_size <= LARGEST_SIDE:
            expected = f"@{SMALLEST_SIDE} to @{LARGEST_SIDE}"
            raise UserError(f"{name!r}: images {image_size} pixels wide; expected {expected}")
        return IMAGES[kind](Path(path), name, image_size)
    if name in MADE:
        return MADE[name]()
    if name in FILES:
        return _find(name, data_dir, download)
    known = ", ".join([*FILES, *MADE, *(f"{kind}:<path>" for kind in IMAGES)])
    raise UserError(f"unknown data set {name!r}; known are {known}")


def search_folders(data_dir: str | Path | None) -> list[Path]:
    """Folders looked in, in order; $SIMCLR_DATA may name several, separated as in $PATH."""
    given = [data_dir, *os.environ.get("SIMCLR_DATA", "").split(os.pathsep), "data"]
    return [Path(folder) for folder in dict.fromkeys(given) if folder]


def _find(name: str, data_dir: str | Path | None, may_download: bool) -> Dataset:
    """What is in one of the folders, or else torchvision's download."""
    folders, read = search_folders(data_dir), FILES[name].read
    if found := next(filter(None, map(read, folders)), None):
        return found
    why, cause = "downloads are off", None
    if may_download:
        try:
            return read(download(name, Path(data_dir or "data")))
        except UserError:
            raise
        except Exception as error:  # urllib's, torchvision's, and torch's on an old layout
            cause, said = error, str(error).strip() or type(error).__name__
            why = f"the download failed ({said.splitlines()[0]})"
    looked = ", ".join(map(str, folders))
    raise DataNotFound(
        f"{name} not found: looked in {looked} for {FILES[name].LAYOUTS}; {why}. Put the files "
        "there, name their folder with --data DIR or $SIMCLR_DATA, or connect once to download them"
    ) from cause


def download(name: str, root: Path) -> Path:
    """Run torchvision's download into root, whole or not at all, one process at a time."""
    import torchvision.datasets  # a second of start-up for what is rarely needed

    root.mkdir(parents=True, exist_ok=True)
    busy = f"{name}: another process is downloading it; waiting for it"
    with one_at_a_time(root / f".{name}.lock", busy):
        if not (root / FILES[name].DOWNLOADED).is_dir():  # by another process meanwhile
            staging, kept = root / f".downloading-{name}", Path(FILES[name].DOWNLOADED).parts[0]
            shutil.rmtree(staging, ignore_errors=True)  # what a killed process left is of no use
            getattr(torchvision.datasets, name.upper())(str(staging), download=True)
            (staging / kept).replace(root / kept)
            shutil.rmtree(staging)
    return root
