"""Streaming: images a second against the number of decoding processes, and memory over a whole pass.

Draws JPEG images (photo-like: smooth colours and noise), once as an image folder and once as WebDataset shards of a
thousand. Rates are of `feed` alone, batches of 256 in the order of an epoch, nothing else working; every count of
processes reads its own images in each round, all in turns. Then one pass over all images by --most processes, with
the memory of this process and theirs (each one's share of what they share) at 100 moments.
Files are as good as in the page cache: what a disk adds is not measured. Run: python benchmarks/streaming.py
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children
from pathlib import Path
from statistics import median

import numpy as np
from common import Result, environment
from PIL import Image

from simclr_core.data import feed, load_dataset, shuffled
from simclr_core.seeds import batches, generator

BATCH, SHARD, CLASSES = 256, 1000, 10
QUALITY = 90  # of the JPEG files


def draw(k: int, side: int) -> bytes:
    """A JPEG of side x side pixels, always the same one for a k."""
    random = np.random.default_rng(k)
    smooth = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
    noise = random.integers(-16, 17, (side, side, 1), dtype=np.int16)
    pixels = (np.asarray(smooth, np.int16) + noise).clip(0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def write(job: tuple[Path, str, int, int, int]) -> int:
    """Images start to stop of a split, in both forms; returns their bytes."""
    root, split, start, stop, side = job
    written = 0
    with tarfile.open(root / f"shards/{split}/{start:07}.tar", "w") as tar:
        for k in range(start, stop):
            content = draw(k, side)
            written += len(content)
            (root / f"folder/{split}/{k % CLASSES}/{k}.jpg").write_bytes(content)
            for suffix, part in (("jpg", content), ("cls", str(k % CLASSES).encode())):
                member = tarfile.TarInfo(f"{k}.{suffix}")
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    return written


def write_all(root: Path, images: int, side: int) -> int:
    for split in ("train", "test"):
        (root / "shards" / split).mkdir(parents=True)
        for label in range(CLASSES):
            (root / "folder" / split / str(label)).mkdir(parents=True)
    jobs = [(root, "train", k, min(k + SHARD, images), side) for k in range(0, images, SHARD)]
    jobs.append((root, "test", images, images + CLASSES, side))
    with ProcessPoolExecutor() as pool:
        return sum(pool.map(write, jobs))


def rate(images, decoders: int, epoch: int, count: int) -> float:
    """Images a second of the first `count` of an epoch's order, from asking for them to the last one's arrival."""
    os.environ["SIMCLR_DECODERS"] = str(decoders)
    parts = batches(shuffled(images, generator(0, "order", epoch))[:count], BATCH)
    started = time.perf_counter()
    with feed(images, parts) as fed:
        read = sum(map(len, fed))
    return read / (time.perf_counter() - started)


def memory() -> float:
    """MB of this process and its children, each page shared out among those that have it (Linux)."""
    kilobytes = 0
    for process in ["self", *(str(child.pid) for child in active_children())]:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024


def watch(images, decoders: int) -> list[float]:
    """MB at 100 moments of a pass over all images."""
    os.environ["SIMCLR_DECODERS"] = str(decoders)
    parts = batches(shuffled(images, generator(0, "order", 1)), BATCH)
    moments, seen = set(np.linspace(0, len(parts) - 1, 100).round().astype(int).tolist()), []
    with feed(images, parts) as fed:
        for k, _ in enumerate(fed):
            if k in moments:
                seen.append(memory())
    return seen


def main(argv: Sequence[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=256, help="pixels of the JPEG images")
    parser.add_argument("--size", type=int, default=64, help="pixels of what they are decoded to")
    parser.add_argument("--most", type=int, default=os.cpu_count(), help="processes that decode")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", type=int, default=5_120, help="images read in a round")
    parser.add_argument("--quick", action="store_true", help="300 small images, to try it out")
    args = parser.parse_args(argv)
    if args.quick:
        args.images, args.side, args.rounds, args.part = 300, 48, 1, 300
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["SIMCLR_CACHE"] = str(root / "cache")
        size = write_all(root, args.images, args.side)
        splits, listing = {}, {}
        for form in ("folder", "shards"):
            started = time.perf_counter()
            splits[form] = load_dataset(f"stream:{root / form}@{args.size}").train.images
            listing[form] = time.perf_counter() - started
        seconds: dict[tuple, list[float]] = {}
        for turn in range(args.rounds):
            for form, images in splits.items():
                for decoders in range(args.most + 1):
                    seconds.setdefault((form, decoders), []).append(rate(images, decoders, turn + 1, args.part))
        seen = {form: watch(images, args.most) for form, images in splits.items()}
    rows = []
    for decoders in range(args.most + 1):
        row: dict[str, str | float] = {"processes that decode": str(decoders) if decoders else "0 (this one)"}
        for form in splits:
            times = median(a / b for a, b in zip(seconds[form, decoders], seconds[form, 1], strict=True))
            row |= {f"{form}: images/s": median(seconds[form, decoders]), f"{form}: times one": times}
        rows.append(row)
    for label, pick in (("at the start", lambda mb: mb[0]), ("halfway", lambda mb: mb[len(mb) // 2]),
                        ("at the end", lambda mb: mb[-1]), ("most", max)):  # fmt: skip
        rows.append(dict.fromkeys(rows[0], "") | {"processes that decode": f"MB {label}"}
                    | {f"{form}: images/s": pick(seen[form]) for form in splits})  # fmt: skip
    setting = (
        f"{args.images:,} JPEG images of {args.side} x {args.side} pixels, {size / args.images / 1000:.1f} kB each, to "
        f"{args.size} x {args.size}; medians of {args.rounds} interleaved rounds of {args.part:,}; listed and "
        f"checksummed in {listing['folder']:.0f} s (folder) and {listing['shards']:.0f} s (shards); memory of this and "
        f"{args.most} processes over a pass over all"
    )
    growth = {f"memory at the end of a pass over {form}, of that after a tenth": mb[-1] / mb[len(mb) // 10]
              for form, mb in seen.items()}  # fmt: skip
    last = f"times as many images a second with {args.most} processes as with one"
    ratio = median(a / b for a, b in zip(seconds["shards", args.most], seconds["shards", 1], strict=True))
    return Result(environment(["torch", "torchvision", "pillow"]), setting, rows, growth | {last: ratio}).show()


if __name__ == "__main__":
    main()
