"""Folders of images, <path>/{train,test}/<class>/<image>: listed, ordered and decoded.

What an image becomes follows from this file alone: its digest (source.py) is part of what names
decoded data, so that an edit here decodes anew.
"""

import hashlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from simclr_core.data.dataset import Dataset, Split, check_name
from simclr_core.errors import DataNotFound, UserError

# Whatever the name says, never PostScript, which is a program.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
LARGEST_IMAGE = 50_000_000  # pixels; Pillow warns of a decompression bomb from 89 million on


def list_folder(root: Path) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
    """(file name, class, path) of each image by split; a checksum of all paths, sizes and dates.

    Raises: DataNotFound, UserError naming what is missing or odd.
    """
    where = f"image folder {str(root)!r}"
    check_name(str(root), "image folder")
    splits: dict[str, list] = {"train": [], "test": []}
    listing = hashlib.sha256()
    for split, listed in splits.items():
        if not (root / split).is_dir():
            raise DataNotFound(f"{where}: {root / split} does not exist; expected "
                               "<path>/{train,test}/<class>/<image>")  # fmt: skip
        folders = sorted(p for p in (root / split).iterdir() if p.is_dir() and p.name[0] != ".")
        for folder in folders:
            for entry in _images(folder, root.resolve()):
                listed.append((entry.name, folder.name, entry.path))
                status = entry.stat()
                listing.update(f"{entry.path}|{status.st_size}|{status.st_mtime_ns}\n".encode())
        if not folders:
            raise UserError(f"{where}: {root / split} holds no class folder; add <class>/<image>")
    train, test = ({label for _, label, _ in listed} for listed in splits.values())
    if odd := ", ".join(sorted(train ^ test)):
        raise UserError(f"{where}: train and test differ in their classes ({odd}); make them alike")
    return splits, listing.hexdigest()


def _images(folder: Path, inside: Path) -> list[os.DirEntry]:
    """The images of a class, by name; refuses none, what is no file, and links out of the tree."""
    with os.scandir(folder) as entries:
        images = [e for e in entries if Path(e.name).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise UserError(f"image folder: class {folder} is empty; put images in it or remove it")
    for entry in images:
        check_name(entry.path, "image folder")
        if not (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)):
            raise UserError(f"{entry.path} is not a file, or a link to nothing; remove it")
        linked = folder.is_symlink() or entry.is_symlink()
        if linked and not Path(entry.path).resolve().is_relative_to(inside):
            raise UserError(f"{entry.path} is a link out of {folder.parents[1]}; copy it in")
    return sorted(images, key=lambda entry: entry.name)


def put_in_order(files: list[tuple]) -> list[tuple]:
    """(file name, ...) lists in the order of their images.

    Files named by a number in the order of that number, over all classes; others, which lie class
    by class on the disk, mixed by a fixed seed, so that every part of a split holds every class.
    """
    if all(Path(file).stem.isdecimal() for file, *_ in files):
        return sorted(files, key=lambda item: int(Path(item[0]).stem))
    generator = torch.Generator().manual_seed(0)
    return [files[k] for k in torch.randperm(len(files), generator=generator).tolist()]


def decode(name: str, splits: dict[str, list], image_size: int, where: str) -> Dataset:
    """(file name, class, path or bytes) lists as a data set; mean and std are its own."""
    class_names = tuple(sorted({label for _, label, _ in splits["train"]}))
    decoded = []
    for split, files in splits.items():
        images = torch.empty(len(files), image_size, image_size, 3, dtype=torch.uint8)
        labels = torch.empty(len(files), dtype=torch.int64)
        for k, (file, label, content) in enumerate(put_in_order(files)):
            check_name(f"{label}/{file}", where)
            images.numpy()[k] = read_image(content, image_size, f"{where}: {split}/{label}/{file}")
            if label not in class_names:
                raise UserError(f"{where}: class {label!r} of {split} is not among those of train")
            labels[k] = class_names.index(label)
        decoded.append(Split(images, labels))
    pixels = decoded[0].images.view(-1, 3).float() / 255
    statistics = pixels.mean(0), pixels.std(0).clamp_min(0.01)
    mean, std = (tuple(round(v, 4) for v in channels.tolist()) for channels in statistics)
    source = f"image folder, every image resized to {image_size} x {image_size} RGB"
    return Dataset(name, *decoded, class_names, mean, std, source)


def read_image(content: str | bytes, image_size: int, where: str) -> np.ndarray:
    """One image as (image_size, image_size, 3) uint8: shorter side resized, centre cropped.

    Greyscale, palette, alpha, CMYK and 16 bit are converted; of an animation, the first picture.
    Raises: UserError with `where`, for what is too large or no image.
    """
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        with (warnings.catch_warnings(action="ignore"),
              Image.open(source, formats=IMAGE_FORMATS) as image):  # fmt: skip
            shape = f"{image.width} x {image.height} pixels"
            if image.width * image.height > LARGEST_IMAGE:
                raise UserError(f"{where} is {shape}, more than {LARGEST_IMAGE:,}; shrink it")
            if image_size**2 * max(image.size) > LARGEST_IMAGE * min(image.size):  # once resized
                raise UserError(f"{where} is {shape}, too long and thin; crop it")
            return np.asarray(_resized(_as_rgb(image), image_size))
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged files
        kind = type(error).__name__
        raise UserError(f"{where} cannot be read as an image ({kind}); remove it") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 or 32 bit grey: Pillow's conversion would clip at 255
        wide = np.asarray(image, np.float64)
        top = 65535 if image.mode.startswith("I;16") or wide.max() > 255 else 255
        image = Image.fromarray((wide / top * 255).clip(0, 255).astype(np.uint8))
    if image.mode in ("P", "PA", "LA", "RGBA"):  # transparency over white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _resized(image: Image.Image, side: int) -> Image.Image:
    """As torchvision's resize and center_crop do it, bilinear."""
    if image.size == (side, side):
        return image
    width, height = (side * length // min(image.size) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))
