"""Batches larger than memory: time and peak memory of a training step with gradient caching, beside the whole batch.

The same ResNet-18 step on two views of each image, the whole batch's activations at once or those of `micro_batch`
images at a time (simclr_core.scale, on generated images). Times: interleaved rounds. Memory: peak beyond networks and
images (so with gradients and Adam's state), each in a process of its own.
Run: python benchmarks/gradient_caching.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import torch
from common import (
    Result,
    environment,
    generated_data,
    in_a_process_of_its_own,
    interleave,
    peak_of,
    speedup,
    step_config,
    step_parser,
    step_setting,
)

from labreport.store.train import build_training
from simclr_core.config import PretrainConfig


def step_of(config: PretrainConfig) -> Callable[[], int]:
    """One step, the device waited for; returns the batch."""
    training = build_training(config, generated_data(config.batch_size))
    views = training.views(training.images, generator=torch.Generator().manual_seed(0))

    def run() -> int:
        training.step(*views).item()
        return config.batch_size

    return run


def peak_apart(config: PretrainConfig) -> float:
    """Peak in MB of a step in a process of its own."""
    options = {"batch": config.batch_size, "width": config.width, "device": config.device,
               "precision": config.precision, "threads": torch.get_num_threads(),
               "once": config.micro_batch}  # fmt: skip
    return in_a_process_of_its_own(__file__, *(f"--{name}={value}" for name, value in options.items())) / 1e6


def main(argv: Sequence[str] | None = None) -> Result | None:
    parser = step_parser(__doc__, None, 3, "images a step; default 8,192 on a GPU, 1,024 on a CPU")
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    config = step_config(args, quick_batch=32, gpu_batch=8192)
    if args.once is not None:
        step_of(replace(config, batch_size=8, images=(0, 8)))()  # libraries loaded, threads started
        print(peak_of(step_of(replace(config, micro_batch=args.once)), config.device)[1])
        return None
    batch = config.batch_size
    configs = {f"{size:,} images at a time" if size else "the whole batch": replace(config, micro_batch=size)
               for size in (0, batch // 4, batch // 16)}  # fmt: skip
    seconds = interleave({name: step_of(one) for name, one in configs.items()}, args.rounds, at_least=0)
    peaks = {name: peak_apart(one) for name, one in configs.items()}
    whole, *_, smallest = configs
    rows = [
        {"activations of": name, "images/s": 1 / median(seconds[name]),
         "time of the whole batch's": 1 / speedup(seconds, name, whole), "peak MB": peaks[name],
         "memory of its": peaks[name] / peaks[whole]} for name in configs
    ]  # fmt: skip
    setting = f"{step_setting(config)}; {args.rounds} interleaved rounds"
    ratio = {f"memory beside the whole batch, {smallest}": rows[-1]["memory of its"]}
    return Result(environment(["torch"], config.device), setting, rows, ratio).show()


if __name__ == "__main__":
    main()
