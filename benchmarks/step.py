"""One CIFAR-10 ResNet-18 training step: images per second, share of the measured matrix peak, where the time goes.

Views, one forward of both, loss, backward, optimiser, by simclr_core.train's own parts on generated images. The peak is
that of a large matrix product in the same precision on the same device, measured in turn with the step.
With --compile the same step with its networks compiled by torch.compile is measured beside it, and what the compiling
takes: "default" fuses kernels, "reduce-overhead" also records CUDA graphs, which saves a GPU's launches.
Run: python benchmarks/step.py --batch 256 --width 0.25 --compile default
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median

import torch
from common import (
    Result,
    environment,
    generated_data,
    interleave,
    speedup,
    step_config,
    step_parser,
    step_setting,
    wait,
)

from labreport.run.cost import pretrain_flops
from simclr_core.config import PretrainConfig
from simclr_core.data import Dataset
from simclr_core.train import Training

PARTS = ("views", "forward", "loss", "backward", "optimiser")
COMPILE = ("default", "reduce-overhead", "max-autotune")  # torch.compile's modes


def prepare(config: PretrainConfig, data: Dataset, mode: str = "") -> Training:
    """The training that is measured, its networks compiled in one of torch.compile's modes if one is named."""
    training = config.training(data)
    if mode:
        training.encoder = torch.compile(training.encoder, mode=mode)
        training.head = torch.compile(training.head, mode=mode)
    return training


def whole_steps(training: Training, steps: int) -> Callable[[], int]:
    draws = torch.Generator().manual_seed(0)

    def run() -> int:
        for _ in range(steps):
            training.step(*training.views(training.images, generator=draws))
        wait(training.device.type)
        return steps * len(training.images)

    return run


def matrix_products(precision: str, device: str, side: int, times: int) -> Callable[[], int]:
    """Counts floating-point operations: 2 side^3 a product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side, device=device).to(dtype)

    def run() -> int:
        for _ in range(times):
            a @ b
        wait(device)
        return times * 2 * side**3

    return run


def time_parts(training: Training, draws: torch.Generator) -> list[float]:
    """Seconds of each of PARTS in one step, the device waited for after each."""
    marks = []

    def mark() -> None:
        wait(training.device.type)
        marks.append(time.perf_counter())

    mark()
    x_i, x_j = training.views(training.images, generator=draws)
    mark()
    z_i, z_j = training.project(x_i, x_j)
    mark()
    loss = training.loss(z_i, z_j)
    mark()
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    mark()
    training.optimizer.step()
    mark()
    return [end - start for start, end in pairwise(marks)]


def main(argv: Sequence[str] | None = None) -> Result:
    parser = step_parser(__doc__, 256, 7)
    parser.add_argument("--compile", choices=COMPILE, nargs="+", default=[], metavar="MODE",
                        help=f"of {', '.join(COMPILE)}: also measure the step compiled so")  # fmt: skip
    args = parser.parse_args(argv)
    config = step_config(args, quick_batch=8)
    batch, device, data = config.batch_size, config.device, generated_data(config.batch_size)
    side = 256 if args.quick else 8192 if device == "cuda" else 2048
    training = prepare(config, data)
    times = 10 if device == "cuda" else 1  # a GPU is waited for now and then, as in training
    draws, parts = torch.Generator().manual_seed(0), []
    runs = {
        "step": whole_steps(training, times),
        "product": matrix_products(config.precision, device, side, times),
        "parts": lambda: parts.append(time_parts(training, draws)) or batch,
    }
    compiling = {}
    for mode in args.compile:
        runs[mode] = whole_steps(prepare(config, data, mode), times)
        started = time.perf_counter()
        runs[mode]()
        compiling[mode] = time.perf_counter() - started
    seconds = interleave(runs, args.rounds, at_least=0 if args.quick else 1)
    spent = [median(values) for values in zip(*parts[1:], strict=True)]
    flops = pretrain_flops(replace(config, epochs=1), data) / batch
    rows = [
        {"part": part, "ms": 1000 * s, "percent": 100 * s / sum(spent)} for part, s in zip(PARTS, spent, strict=True)
    ]
    whole = {"step": "whole step, not interrupted"}
    whole |= {mode: f"whole step, compiled ({mode}; {s:.0f} s to compile)" for mode, s in compiling.items()}
    rows += [
        {"part": said, "ms": 1000 * batch * median(seconds[kind]), "percent": ""} for kind, said in whole.items()
    ]
    shares = [flops * product / step for step, product in zip(seconds["step"], seconds["product"], strict=True)]
    ratios = {"images per second": 1 / median(seconds["step"]), "share of the measured matrix peak": median(shares)}
    ratios |= {f"time of the step, of the one compiled ({mode})": speedup(seconds, mode, "step") for mode in compiling}
    setting = (
        f"{step_setting(config)}; {flops / 1e9:.3g} GFLOP an image, matrix product of side {side} at "
        f"{1e-12 / median(seconds['product']):.3g} TFLOP/s; medians of {args.rounds} interleaved rounds"
    )
    return Result(environment(["torch"], device), setting, rows, ratios).show()


if __name__ == "__main__":
    main()
