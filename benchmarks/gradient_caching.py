"""Batches larger than memory: time and peak memory of a training step with gradient caching, beside the whole batch.

The same ResNet-18 step on two views of each image, the whole batch's activations at once or those of `micro_batch`
images at a time (simclr_core.pretrain's own, on generated images). Times: interleaved rounds. Memory: peak beyond
networks and images (so with gradients and Adam's state), each in a process of its own.
Run: python benchmarks/gradient_caching.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from common import Result, environment, interleave, peak_of, speedup
from step import generated_data

from simclr_core.augment import make_views
from simclr_core.pretrain import PretrainConfig, _Training, resolve_device, resolve_precision
from simclr_core.runs import Run


def step_of(batch: int, micro_batch: int, width: float, device: str) -> Callable[[], int]:
    """One step, the device waited for; returns the batch."""
    config = PretrainConfig("generated", (0, batch), "resnet18", width, augmentation="best", head="mlp_bn",
                            head_hidden=512, head_dim=128, batch_size=batch, micro_batch=micro_batch, epochs=1,
                            precision=resolve_precision("auto", device), device=device)  # fmt: skip
    training = _Training(Run(Path("benchmark"), config), generated_data(batch), (), None)
    draws = torch.Generator().manual_seed(0)
    views = make_views(training.images, training.recipe, training.mean, training.std, draws)

    def run() -> int:
        training.step(*views).item()
        return batch

    return run


def peak_apart(batch: int, micro_batch: int, width: float, device: str) -> float:
    """Peak in MB of a step in a process of its own."""
    words = ["--batch", str(batch), "--width", str(width), "--device", device, "--once", str(micro_batch)]
    words += ["--threads", str(torch.get_num_threads())]
    printed = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True).stdout
    return json.loads(printed) / 1e6


def main(argv: Sequence[str] | None = None) -> Result | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, help="images a step; default 8,192 on a GPU, 1,024 on a CPU")
    parser.add_argument("--width", type=float, help="of the ResNet-18; default 1 on a GPU, 0.25 on a CPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of a tiny step, to try it out")
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    batch, width = args.batch or (8192 if device == "cuda" else 1024), args.width or (1.0 if device == "cuda" else 0.25)
    batch, width, rounds = (32, 1 / 16, 1) if args.quick else (batch, width, args.rounds)
    torch.set_num_threads(args.threads)
    if args.once is not None:
        step_of(8, 0, width, device)()  # libraries loaded, threads started
        print(peak_of(step_of(batch, args.once, width, device), device)[1])
        return None
    sizes = [0, batch // 4, batch // 16]
    names = {size: f"{size:,} images at a time" if size else "the whole batch" for size in sizes}
    seconds = interleave({names[size]: step_of(batch, size, width, device) for size in sizes}, rounds, at_least=0)
    peaks = {names[size]: peak_apart(batch, size, width, device) for size in sizes}
    rows = [
        {"activations of": name, "images/s": 1 / median(seconds[name]),
         "time of the whole batch's": 1 / speedup(seconds, name, names[0]), "peak MB": peaks[name],
         "memory of its": peaks[name] / peaks[names[0]]} for name in names.values()
    ]  # fmt: skip
    setting = f"ResNet-18, width {width:g}, batch {batch:,} (two views each), on {device}; {rounds} interleaved rounds"
    ratio = {f"memory beside the whole batch, {names[sizes[-1]]}": rows[-1]["memory of its"]}
    return Result(environment(["torch"], device), setting, rows, ratio).show()


if __name__ == "__main__":
    main()
