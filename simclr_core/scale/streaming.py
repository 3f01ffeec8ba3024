"""Images that stay on the disk, decoded by worker processes ahead of the work that needs them.

Pixels, and the order of an image folder, are those of the data set in memory.
Shape letters: N images, S image side.
"""

import hashlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_convert, get_worker_info

from simclr_core.data.folder import read_image
from simclr_core.data.source import code_digests
from simclr_core.errors import StreamError, UserError

# Shards mixed with one another, the files being read at a time. Ours: of a thousand images each,
# 16,000; a WebDataset pipeline's shuffle buffer commonly holds 1,000 to 5,000.
SHUFFLE_SHARDS = 16
READ_AT_ONCE = 256  # images a worker decodes for one message, where no batch says how many
PROBED = 16  # images of each split whose pixels are in the fingerprint: it sees another Pillow
SHORT = "perhaps memory or /dev/shm is too small: take a smaller batch, or fewer SIMCLR_DECODERS"


@dataclass(frozen=True)
class Index:
    """Where the images of a split lie. Tensors alone: of Python's objects worker processes would
    make copies in time, as each look at one writes its reference count (pytorch issue 13246)."""

    paths: Tensor  # uint8 (files, longest path), from the root, zeros behind
    file: Tensor  # int64 (N,), the number of the image's file
    offset: Tensor  # int64 (N,), bytes before it in that file
    size: Tensor  # int64 (N,), its bytes
    digest: Tensor  # uint8 (N, 16), of their SHA-256
    labels: Tensor  # int64 (N,)

    @property
    def sharded(self) -> bool:
        return len(self.paths) < len(self.file)


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """What a tensor (N, S, S, 3) of uint8 is to the data set in memory: `len`, `shape`, `[rows]`
    (decoded now), `to` (where they are delivered) and, ahead of the work, `feed`."""

    root: Path
    index: Index
    image_size: int
    rows: range
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), self.image_size, self.image_size, 3

    def to(self, device: str) -> "StreamedImages":
        return replace(self, device=device)

    def part(self, start: int, stop: int) -> "StreamedImages":
        """A range of the images, not read yet."""
        return replace(self, rows=self.rows[start:stop])

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Tensor:
        """The images (..., S, S, 3) of rows of any shape, read now."""
        rows = torch.arange(len(self))[rows] if isinstance(rows, slice) else torch.as_tensor(rows)
        images = torch.empty(rows.numel(), *self.shape[1:], dtype=torch.uint8, device=self.device)
        with self.feed(rows.flatten().cpu().split(READ_AT_ONCE)) as parts:
            for place, part in zip(images.split(READ_AT_ONCE), parts, strict=True):
                place.copy_(part)  # and the part's shared memory is free again
        return images.view(*rows.shape, *self.shape[1:])

    @contextmanager
    def feed(self, parts: Sequence[Tensor]) -> Iterator[Iterator[Tensor]]:
        """The images of each list of rows in turn, on the device, decoded ahead by workers.

        Raises: StreamError for an image that is damaged or has changed, and for an ended worker.
        """
        workers = min(decoders(), len(parts)) if len(parts) > 1 else 0
        # another start would copy the index
        forked = "fork" if workers and sys.platform == "linux" else None
        batches = iter(DataLoader(
            self, batch_sampler=[part.tolist() for part in parts], collate_fn=default_convert,
            num_workers=workers, multiprocessing_context=forked, pin_memory=self.device != "cpu",
        ))  # fmt: skip
        try:
            yield map(self._delivered, batches)
        except RuntimeError as error:  # raised wherever the main process is at the signal
            if "DataLoader worker" not in str(error):
                raise
            message = f"a process that decodes images was ended ({error}); {SHORT}"
            raise StreamError(message) from error
        finally:
            if workers:
                batches._shutdown_workers()  # or they live as long as a traceback that is kept

    def _delivered(self, batch: Tensor | str) -> Tensor:
        if isinstance(batch, str):
            raise StreamError(batch)
        return batch.to(self.device, non_blocking=True)

    def __getitems__(self, rows: list[int]) -> Tensor | str:
        """A worker's batch; an error goes as its text, torch would wrap it in a traceback."""
        try:
            images = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
            if get_worker_info():
                images.share_memory_()  # here, where an error is seen
            pixels = images.numpy()
            for k, content, where in self._contents([self.rows[row] for row in rows]):
                pixels[k] = read_image(content, self.image_size, where)
        except UserError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename or self.root} cannot be read: {error.strerror or error}"
        except RuntimeError as error:
            return f"no memory to decode {len(rows):,} images in ({error}); {SHORT}"
        return images

    def _contents(self, images: list[int]) -> Iterator[tuple[int, bytes, str]]:
        """Position in the batch, bytes and name of each image, file by file, forward in each."""
        index = self.index
        places = torch.stack([index.file[images], index.offset[images], index.size[images]], 1)
        wanted = sorted((*place, k) for k, place in enumerate(places.tolist()))
        for file, places in itertools.groupby(wanted, key=lambda place: place[0]):
            path = self.root / index.paths[file].numpy().tobytes().rstrip(b"\0").decode()
            with open(path, "rb") as opened:
                for _, offset, size, k in places:
                    opened.seek(offset)
                    content = opened.read(size)
                    where = f"{path}, byte {offset:,}" if index.sharded else str(path)
                    if digest(content) != index.digest[images[k]].numpy().tobytes():
                        raise UserError(f"{where}: the image has changed since the data were "
                                        "listed, or is damaged; mend it, start again")  # fmt: skip
                    yield k, content, where

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """A fresh order of all rows: any of an image folder's; of shards, some at a time are read
        and their images mixed, so that a disk sees few files for long."""
        if not self.index.sharded:
            return torch.randperm(len(self), generator=generator)
        file, order = self.index.file[self.rows.start : self.rows.stop], []
        shards = file.unique()
        for mixed in shards[torch.randperm(len(shards), generator=generator)].split(SHUFFLE_SHARDS):
            rows = torch.isin(file, mixed).nonzero().flatten()
            order.append(rows[torch.randperm(len(rows), generator=generator)])
        return torch.cat(order)

    def identity(self) -> bytes:
        """What the fingerprint covers for all pixels: the files' bytes, and the code that makes
        images and an order of them."""
        index, rows = self.index, slice(self.rows.start, self.rows.stop)
        how = f"{code_digests(__name__)} {SHUFFLE_SHARDS if index.sharded else 1}"
        covered = [index.digest[rows], self[:PROBED].cpu()]
        covered[1:1] = [index.file[rows]] if index.sharded else []
        return how.encode() + b"".join(part.numpy().tobytes() for part in covered)


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:16]


def decoders() -> int:
    """Worker processes: $SIMCLR_DECODERS, or a core each, shared among a machine's trainings."""
    if given := os.environ.get("SIMCLR_DECODERS"):
        if given.isascii() and given.isdecimal():
            return int(given)
        raise UserError(f"SIMCLR_DECODERS is {given!r}; expected a whole number of processes "
                        "(0: none but this one)")  # fmt: skip
    linux = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
