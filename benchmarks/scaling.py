"""On paper: SimCLR on ImageNet-1k (ResNet-50, batch 4,096, 800 epochs) on 8, 64 and 512 GPUs, and what saturates first.

Nothing here was run on a GPU. FLOP, parameters and exchanges are counted on the network itself; rates are the options
below, each with its source. `--decode` is measured on this machine by `--measure-decoding`. Prints the table of
docs/scaling.md, in Markdown.
"""

import argparse
import io
import math
import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

IMAGES = 1_281_167  # ILSVRC 2012, training images (Russakovsky et al. 2015, arXiv 1409.0575)
JPEG_BYTES = 110_000  # of one of them, mean: 138 GB in all
BATCH, EPOCHS, SIDE, Z_DIM = 4096, 800, 224, 128  # SimCLR paper, section 4
A_NODE = 8  # GPUs


def count() -> tuple[float, int, int]:
    """FLOP of a forward pass of one image, parameters (with the head 2048-2048-128), batch normalisations."""
    with torch.device("meta"):
        encoder = resnet50()
        head = nn.Linear(2048, 2048, bias=False), nn.BatchNorm1d(2048), nn.ReLU(), nn.Linear(2048, Z_DIM)
        encoder.fc = nn.Sequential(*head)
        with FlopCounterMode(display=False) as counter:
            encoder(torch.empty(2, 3, SIDE, SIDE))
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return counter.get_total_flops() / 2, sum(p.numel() for p in encoder.parameters()), len(norms)


def estimate(gpus: int, rates: argparse.Namespace) -> dict[str, float]:
    """What a step takes on so many GPUs, in milliseconds, and what follows; nothing overlaps, as in this code."""
    flop, parameters, norms = count()
    bandwidth = 1e9 * (rates.nvlink if gpus <= A_NODE else rates.network)  # bytes a second and GPU; the slowest link
    ring = 2 * (gpus - 1) / gpus  # an all-reduce sends and receives each byte about twice
    speed = 1e15 * rates.petaflops
    milliseconds = {
        "encoder": 1e3 * 2 * 3 * flop * BATCH / gpus / (rates.share * speed),
        "loss": 1e3 * 3 * 2 * (2 * BATCH) ** 2 * Z_DIM / (rates.share * speed),  # whole on each GPU
        "all-reduce of gradients": 1e3 * ring * 4 * parameters / bandwidth,
        "gather of z": 1e3 * ring * 4 * 2 * BATCH * Z_DIM / bandwidth,
        "BN exchanges": 1e-3 * rates.latency * 2 * norms * math.log2(gpus),
    }
    step = sum(milliseconds.values())
    images_per_second = 1e3 * BATCH / step
    return {
        "images a GPU": BATCH / gpus,
        **{f"{name} (ms)": value for name, value in milliseconds.items()},
        "step (ms)": step,
        "encoder's share of it (%)": 100 * milliseconds["encoder"] / step,
        "images a second": images_per_second,
        "JPEG (GB/s)": images_per_second * JPEG_BYTES / 1e9,
        "cores that decode, a GPU": images_per_second / rates.decode / gpus,
        "800 epochs (hours)": EPOCHS * IMAGES / images_per_second / 3600,
    }


def decoding_rate(seconds: float = 3.0) -> float:
    """JPEG images of 500 x 375 pixels decoded and resized to 256 a second by one core (process time)."""
    low = np.random.default_rng(0).integers(0, 256, (47, 63, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(low).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    done, started = 0, time.process_time()
    while time.process_time() - started < seconds:
        file.seek(0)
        image = Image.open(file)
        image.draft("RGB", (256, 256))
        image.convert("RGB").resize((341, 256), Image.Resampling.BILINEAR)
        done += 1
    return done / (time.process_time() - started)


def table(rates: argparse.Namespace, gpus: tuple[int, ...] = (8, 64, 512)) -> str:
    columns = [estimate(n, rates) for n in gpus]
    lines = [f"| | {' | '.join(f'{n} GPUs' for n in gpus)} |", "| --- |" + " ---: |" * len(gpus)]
    for row in columns[0]:
        lines.append(f"| {row} | " + " | ".join(_short(column[row]) for column in columns) + " |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default, meaning in (
        ("petaflops", 0.8, "a second: bf16 matrix products of one H100 (measured by others)"),
        ("share", 0.1, "of that in a step, assumed: ResNet-50 at 224 pixels waits for memory"),
        ("nvlink", 450.0, "GB/s a GPU within a node, one way (H100 data sheet)"),
        ("network", 50.0, "GB/s a GPU between nodes (400 Gb/s InfiniBand)"),
        ("latency", 10.0, "microseconds of a small exchange, for each doubling of the GPUs; assumed"),
        ("decode", 490.0, "images a second and core (--measure-decoding, on an AMD EPYC)"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, help=meaning)
    parser.add_argument("--measure-decoding", action="store_true", help="print this machine's rate, and no table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse()
    print(f"{decoding_rate():.0f} images a second and core" if options.measure_decoding else table(options))
