"""Images that stay on the disk, for data larger than memory: listed once, decoded by worker processes when asked for.

`stream:<path>` is `folder:<path>` without holding it. <path>/train and <path>/test hold images by class, as there, or
WebDataset shards: *.tar with <key>.jpg (or .png, ...) and <key>.cls beside it, the class. Pixels are those of the data
set in memory, and so is the order of an image folder: up to STATISTICS_IMAGES images, the same numbers come of it.
Shape letters: N images, S image side.
"""

import hashlib
import itertools
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from simclr_core.data import (
    DECODER_VERSION,
    IMAGE_SUFFIXES,
    Dataset,
    Split,
    cache_folder,
    check_cache,
    check_name,
    list_folder,
    one_at_a_time,
    put_in_order,
    read_image,
)
from simclr_core.errors import DataNotFound, StreamError, UserError
from simclr_core.runs import read_checksummed, set_aside, write_checksummed

# Shards mixed with one another, the files being read at a time. Ours: of a thousand images each, 16,000; a WebDataset
# pipeline's shuffle buffer commonly holds 1,000 to 5,000.
SHUFFLE_SHARDS = 16
READ_AT_ONCE = 256  # images a worker decodes for one message, where no batch says how many
STATISTICS_IMAGES = 10_000  # mean and standard deviation are theirs, evenly spaced; ours: sure to a few tenths of 1 %
PROBED = 16  # images of each split whose pixels the fingerprint covers beside all bytes: it sees another decoder
PROGRESS_SECONDS = 10.0  # between two words on how far the listing is
LARGEST_FILE = 1 << 28  # bytes of one image; data.LARGEST_IMAGE pixels without any compression are 150 MB
LONGEST_CLASS = 200  # bytes of a .cls file
SHORT = "perhaps memory or /dev/shm is too small: take a smaller batch, or fewer processes by SIMCLR_DECODERS"


@dataclass(frozen=True)
class Index:
    """Where the images of a split lie. Arrays alone: of Python's objects worker processes would make copies in time,
    as each look at one writes its reference count (pytorch/pytorch issue 13246)."""

    names: np.ndarray  # uint8, the files' paths from the root, behind one another
    ends: np.ndarray  # int64 (files,), where each of them ends
    file: np.ndarray  # int64 (N,), the number of the image's file
    offset: np.ndarray  # int64 (N,), bytes before it in that file
    size: np.ndarray  # int64 (N,), its bytes
    digest: np.ndarray  # uint8 (N, 16), of their SHA-256
    labels: np.ndarray  # int64 (N,)

    def path(self, file: int) -> str:
        return self.names[self.ends[file - 1] if file else 0 : self.ends[file]].tobytes().decode()

    @property
    def sharded(self) -> bool:
        return len(self.ends) < len(self.file)


class StreamedImages:
    """What a tensor (N, S, S, 3) of uint8 is to the data set in memory: `len`, `shape`, `[rows]` (decoded now, on the
    device), `to` (where they are delivered) and, ahead of the work that needs them, `feed`."""

    def __init__(self, root: Path, index: Index, image_size: int, rows: range, device: str = "cpu"):
        self.root, self.index, self.image_size, self.rows, self.device = root, index, image_size, rows, device

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), self.image_size, self.image_size, 3

    def to(self, device: str) -> "StreamedImages":
        return StreamedImages(self.root, self.index, self.image_size, self.rows, device)

    def part(self, start: int, stop: int) -> "StreamedImages":
        """A range of the images, not read yet."""
        return StreamedImages(self.root, self.index, self.image_size, self.rows[start:stop], self.device)

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Tensor:
        """The images (..., S, S, 3) of rows of any shape, read now."""
        wanted = torch.arange(len(self))[rows] if isinstance(rows, slice) else torch.as_tensor(rows)
        images = torch.empty(wanted.numel(), *self.shape[1:], dtype=torch.uint8, device=self.device)
        with self.feed(wanted.flatten().cpu().split(READ_AT_ONCE)) as parts:
            for place, part in zip(images.split(READ_AT_ONCE), parts, strict=True):
                place.copy_(part)  # and the part's shared memory is free again
        return images.view(*wanted.shape, *self.shape[1:])

    @contextmanager
    def feed(self, parts: Sequence[Tensor]) -> Iterator[Iterator[Tensor]]:
        """The images of each list of rows in turn, on the device, decoded ahead by worker processes.

        Raises: StreamError for an image that is damaged or has changed, and for a worker that was ended.
        """
        workers = min(decoders(), len(parts)) if len(parts) > 1 else 0
        forked = "fork" if workers and sys.platform == "linux" else None  # another start would copy the index
        loader = DataLoader(self, batch_sampler=[part.numpy() for part in parts], collate_fn=_as_it_is,
                            num_workers=workers, multiprocessing_context=forked,
                            pin_memory=self.device != "cpu")  # fmt: skip
        batches = iter(loader)
        try:
            yield map(self._delivered, batches)
        except RuntimeError as error:  # raised wherever the main process is when the signal arrives
            if "DataLoader worker" not in str(error):
                raise
            raise StreamError(f"a process that decodes images was ended ({error}); {SHORT}") from error
        finally:
            if workers:
                batches._shutdown_workers()  # they would live as long as a traceback that somebody keeps

    def _delivered(self, batch: Tensor | str) -> Tensor:
        if isinstance(batch, str):
            raise StreamError(batch)
        return batch.to(self.device, non_blocking=True)

    def __getitems__(self, rows: np.ndarray) -> Tensor | str:
        """What a worker does for a batch; an error goes as its text, since torch would wrap it in a traceback."""
        try:
            images = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
            if get_worker_info():
                images.share_memory_()  # here, where an error is seen
            pixels = images.numpy()
            for k, content, where in self._contents(self.rows.start + rows.astype(np.int64)):
                pixels[k] = read_image(content, self.image_size, where)
        except UserError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename or self.root} cannot be read: {error.strerror or error}"
        except RuntimeError as error:
            return f"no memory to decode {len(rows):,} images in ({error}); {SHORT}"
        return images

    def _contents(self, images: np.ndarray) -> Iterator[tuple[int, bytes, str]]:
        """Position in the batch, bytes and name of each image, file by file and forward in each."""
        index, file = self.index, self.index.file[images]
        order = np.lexsort((index.offset[images], file))
        for number, positions in itertools.groupby(order, key=lambda k: file[k]):
            path = self.root / index.path(number)
            with open(path, "rb") as opened:
                for k in positions:
                    image = images[k]
                    opened.seek(index.offset[image])
                    content = opened.read(index.size[image])
                    where = f"{path}, byte {index.offset[image]:,}" if index.sharded else str(path)
                    if _digest(content) != index.digest[image].tobytes():
                        raise UserError(f"{where}: the image has changed since the data were listed, or is damaged; "
                                        "mend it and start again")  # fmt: skip
                    yield int(k), content, where

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """A fresh order of all rows: any of an image folder's; of shards, some at a time are read and their images
        mixed, so that a disk sees few files for long."""
        if not self.index.sharded:
            return torch.randperm(len(self), generator=generator)
        file = self.index.file[self.rows.start : self.rows.stop]
        shards = np.unique(file)
        shards = shards[torch.randperm(len(shards), generator=generator).numpy()]
        order = []
        for start in range(0, len(shards), SHUFFLE_SHARDS):
            rows = torch.from_numpy(np.flatnonzero(np.isin(file, shards[start : start + SHUFFLE_SHARDS])))
            order.append(rows[torch.randperm(len(rows), generator=generator)])
        return torch.cat(order)

    def identity(self) -> bytes:
        """What the fingerprint covers for all pixels: the files' bytes, and how they become images and an order."""
        rows = slice(self.rows.start, self.rows.stop)
        shards = self.index.file[rows] if self.index.sharded else np.zeros(0)
        how = f"streamed {DECODER_VERSION} {STATISTICS_IMAGES} {SHUFFLE_SHARDS if self.index.sharded else 1}"
        pixels = self[:PROBED].cpu().numpy()
        return how.encode() + self.index.digest[rows].tobytes() + shards.tobytes() + pixels.tobytes()


def _as_it_is(batch: Any) -> Any:
    return batch


def decoders() -> int:
    """Worker processes that decode images: $SIMCLR_DECODERS, or a core each, shared among a machine's trainings."""
    given = os.environ.get("SIMCLR_DECODERS", "")
    if given and not (given.isascii() and given.isdecimal()):
        raise UserError(f"SIMCLR_DECODERS is {given!r}; expected a whole number of processes (0: none but this one)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(given) if given else max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


# ---- the index ------------------------------------------------------------------------------------------------


def load_stream(root: Path, name: str, image_size: int) -> Dataset:
    """Raises: UserError, DataNotFound as load_dataset does."""
    check_name(str(root), "image folder")
    sharded = any(next((root / split).glob("*.tar"), None) for split in ("train", "test"))
    kind, index_split, order = (
        ("WebDataset shards", _index_shards, _class_order) if sharded else ("image folder", _index_files, None)
    )
    files, listing = _list_shards(root) if sharded else list_folder(root)
    how = f"{DECODER_VERSION} {STATISTICS_IMAGES} {list(Index.__annotations__)} {image_size} {kind} {listing}"
    path = cache_folder() / f"stream-{hashlib.sha256(how.encode()).hexdigest()[:24]}.index"
    arrays = load(_cached(path, root, lambda: _build(root, files, index_split, order, image_size)))
    indices = {split: Index(**{field: arrays[f"{split}_{field}"] for field in Index.__annotations__})
               for split in ("train", "test")}  # fmt: skip
    train, test = (Split(StreamedImages(root, index, image_size, range(len(index.file))),
                         torch.from_numpy(index.labels)) for index in indices.values())  # fmt: skip
    facts = json.loads(arrays["facts"].tobytes())
    source = f"{kind}, streamed, every image resized to {image_size} x {image_size} RGB"
    return Dataset(name, train, test, *(tuple(facts[field]) for field in ("class_names", "mean", "std")), source)


def _cached(path: Path, root: Path, build: Callable[[], bytes]) -> bytes:
    """Of several processes one builds; a damaged index is set aside and built again."""
    if content := _stored(path):
        return content
    check_cache()
    path.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(path.with_suffix(".lock"), f"{root}: another process is listing it; waiting for it"):
        if not (content := _stored(path)):  # built by another process meanwhile
            content = build()
            write_checksummed(path, content)
    return content


def _stored(path: Path) -> bytes | None:
    try:
        return read_checksummed(path) if path.is_file() else None
    except UserError as error:
        set_aside(path, str(error))
        return None


def _build(root: Path, files: dict[str, list], index_split: Callable, order: Callable | None, image_size: int) -> bytes:
    parts, classes = {}, {}
    for split, listed in files.items():
        parts[split], classes[split] = index_split(root, listed)
    class_names = sorted(set(classes["train"]), key=order)
    if odd := sorted(set(classes["test"]) - set(class_names)):
        raise UserError(f"{root}: test holds classes that train does not: {', '.join(odd)}; remove or add them")
    numbers = {label: number for number, label in enumerate(class_names)}
    arrays = {}
    for split, part in parts.items():
        labels = np.array([numbers[label] for label in classes[split]], np.int64)
        index = replace(part, labels=labels)
        arrays |= {f"{split}_{field}": getattr(index, field) for field in Index.__annotations__}
        if split == "train":
            mean, std = _statistics(StreamedImages(root, index, image_size, range(len(labels))))
    facts = json.dumps({"class_names": class_names, "mean": mean, "std": std})
    return save(arrays | {"facts": np.frombuffer(facts.encode(), np.uint8)})


def _class_order(label: str) -> tuple:
    number = int(label) if label.isascii() and label.isdecimal() else -1
    return number, label


def _in_threads(work: Callable[[Any], Any], items: list, root: Path, what: str) -> list:
    """work(item) of all items, in their order; says now and then how far it is."""
    done, said = [], time.monotonic()
    with ThreadPoolExecutor() as pool:
        for result in pool.map(work, items):
            done.append(result)
            if time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                print(f"{root}: {len(done):,} of {len(items):,} {what} read for their checksums, once", file=sys.stderr,
                      flush=True)  # fmt: skip
    return done


def _index_files(root: Path, listed: list[tuple[str, str, str]]) -> tuple[Index, list[str]]:
    listed = put_in_order(listed)
    chunks = [listed[k : k + 1000] for k in range(0, len(listed), 1000)]
    read = _in_threads(lambda chunk: [_read_file(path) for _, _, path in chunk], chunks, root, "thousand images")
    names = [os.path.relpath(path, root).encode() for _, _, path in listed]
    sizes, digests = zip(*itertools.chain(*read), strict=True)
    return _index(names, range(len(names)), [0] * len(names), sizes, digests), [label for _, label, _ in listed]


def _read_file(path: str) -> tuple[int, bytes]:
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise UserError(f"{path} has more than {LARGEST_FILE:,} bytes; shrink the image")
    return len(content), _digest(content)


def _list_shards(root: Path) -> tuple[dict[str, list[Path]], str]:
    """The shards of each split, and a checksum of their names, sizes and dates."""
    splits, listing, inside = {}, hashlib.sha256(), root.resolve()
    for split in ("train", "test"):
        splits[split] = sorted((root / split).glob("*.tar"))
        if not splits[split]:
            raise DataNotFound(f"{root / split} holds no *.tar shards, as the other split does; put some there")
        for path in splits[split]:
            check_name(path.name, "shard")
            if not path.is_file() or not path.resolve().is_relative_to(inside):
                raise UserError(f"{path} is not a file, or a link to nothing or out of {root}; copy the shard there")
            listing.update(f"{path}|{path.stat().st_size}|{path.stat().st_mtime_ns}\n".encode())
    return splits, listing.hexdigest()


def _index_shards(root: Path, paths: list[Path]) -> tuple[Index, list[str]]:
    shards = _in_threads(lambda path: list(_read_shard(path)), paths, root, "shards")
    samples = [(number, *sample) for number, shard in enumerate(shards) for sample in shard]
    numbers, offsets, sizes, digests, labels = zip(*samples, strict=True)
    return _index([str(path.relative_to(root)).encode() for path in paths], numbers, offsets, sizes, digests), [*labels]


def _index(names: list[bytes], file, offset, size, digest) -> Index:
    numbers = (np.array(values, np.int64) for values in (file, offset, size))
    digests = np.frombuffer(b"".join(digest), np.uint8).reshape(-1, 16)
    ends = np.cumsum([len(name) for name in names])
    return Index(np.frombuffer(b"".join(names), np.uint8), ends, *numbers, digests, np.zeros(0, np.int64))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:16]


def _read_shard(path: Path) -> Iterator[tuple[int, int, bytes, str]]:
    """Offset, size and digest of each sample's image, and its class. Raises: UserError naming the shard."""
    try:
        with tarfile.open(path, "r:") as tar:
            data = (member for member in tar if _is_data(member, path))
            members = itertools.groupby(data, key=lambda member: _key(member)[0])
            empty = True
            for key, sample in members:
                yield _read_sample(f"{path}: {key}", tar, list(sample))
                empty, tar.members = False, []  # tarfile would keep them all
    except UserError:
        raise
    except Exception as error:  # tarfile raises many kinds on what is no archive
        raise UserError(f"{path} is no uncompressed tar archive, or damaged ({type(error).__name__}: {error}); "
                        "write it anew") from error  # fmt: skip
    if empty:
        raise UserError(f"{path} holds no image; remove it")


def _is_data(member: tarfile.TarInfo, path: Path) -> bool:
    if member.isdir():
        return False
    if not member.isreg() or member.issparse() or member.size < 0:
        raise UserError(f"{path} holds {member.name!r}, a link, a device or a sparse file; write it with plain files")
    return not member.name.rpartition("/")[2].startswith((".", "__"))  # as WebDataset leaves them out


def _key(member: tarfile.TarInfo) -> tuple[str, str]:
    """WebDataset's: the name up to the first dot of its last part, and what comes behind."""
    folder, slash, file = member.name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _read_sample(where: str, tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> tuple[int, int, bytes, str]:
    check_name(where, "shard")
    images = [member for member in members if "." + _key(member)[1] in IMAGE_SUFFIXES]
    labels = [member for member in members if _key(member)[1] == "cls"]
    if len(images) != 1 or len(labels) != 1:
        found = ", ".join(_key(member)[1] or "no suffix" for member in members)
        raise UserError(f"{where} has {found}; expected one image ({', '.join(sorted(IMAGE_SUFFIXES))}) and one .cls")
    image, label = images[0], labels[0]
    if image.size > LARGEST_FILE or label.size > LONGEST_CLASS:
        raise UserError(f"{where}: image of {image.size:,} and class of {label.size:,} bytes; at most "
                        f"{LARGEST_FILE:,} and {LONGEST_CLASS}")  # fmt: skip
    try:
        text = tar.extractfile(label).read().decode().strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: the class is not UTF-8; write a number or a name") from error
    check_name(text, where)
    if not text:
        raise UserError(f"{where}: the class is empty; write a number or a name")
    content = tar.extractfile(image).read()
    if len(content) != image.size:
        raise UserError(f"{where}: the archive ends within the image; copy it anew")
    return image.offset_data, image.size, _digest(content), text


def _statistics(images: StreamedImages) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel on the [0, 1] scale, to four digits as the data set in memory."""
    rows = torch.linspace(0, len(images) - 1, min(len(images), STATISTICS_IMAGES), dtype=torch.float64).round().long()
    count, total, squares = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    with images.feed(rows.split(READ_AT_ONCE)) as parts:
        for part in parts:
            pixels = part.view(-1, 3).double() / 255
            count += len(pixels)
            total += pixels.sum(0)
            squares += pixels.square().sum(0)
    mean = total / count
    std = ((squares - count * mean.square()) / (count - 1)).clamp_min(0).sqrt().clamp_min(0.01)
    return [round(value, 4) for value in mean.tolist()], [round(value, 4) for value in std.tolist()]
