"""One CIFAR-10 ResNet-18 training step: images per second, share of the measured matrix peak, where the time goes.

Views, one forward of both, loss, backward, optimiser, by simclr_core.pretrain's own parts on generated images. The
peak is that of a large matrix product in the same precision on the same device, measured in turn with the step.
With --compile the same step with its networks compiled by torch.compile is measured beside it, and what the compiling
takes: "default" fuses kernels, "reduce-overhead" also records CUDA graphs, which saves a GPU's launches.
Run: python benchmarks/step.py --batch 256 --width 0.25 --compile default
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from common import Result, environment, generated_images, interleave

from simclr_core.augment import make_views
from simclr_core.data import Dataset, Split
from simclr_core.loss import nt_xent_loss
from simclr_core.pretrain import PretrainConfig, _Training, pretrain_flops, resolve_device, resolve_precision
from simclr_core.runs import Run

PARTS = ("views", "forward", "loss", "backward", "optimiser")
COMPILE = ("default", "reduce-overhead", "max-autotune")  # torch.compile's modes


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def generated_data(n: int) -> Dataset:
    split = Split(generated_images(n, 32, 3), torch.zeros(n, dtype=torch.int64))
    return Dataset("generated", split, split, ("none",), (0.491, 0.482, 0.447), (0.247, 0.243, 0.262), "generated")


def prepare(config: PretrainConfig, data: Dataset, mode: str = "") -> _Training:
    """The training that is measured, its networks compiled in one of torch.compile's modes if one is named."""
    training = _Training(Run(Path("benchmark"), config), data, (), None)
    if mode:
        training.encoder = torch.compile(training.encoder, mode=mode)
        training.head = torch.compile(training.head, mode=mode)
    return training


def whole_steps(training: _Training, steps: int) -> Callable[[], int]:
    draws = torch.Generator().manual_seed(0)

    def run() -> int:
        for _ in range(steps):
            training.step(*make_views(training.images, training.recipe, training.mean, training.std, draws))
        wait(training.config.device)
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


def time_parts(training: _Training, draws: torch.Generator) -> list[float]:
    """Seconds of each of PARTS in one step, the device waited for after each."""
    marks = []

    def mark() -> None:
        wait(training.config.device)
        marks.append(time.perf_counter())

    mark()
    x_i, x_j = make_views(training.images, training.recipe, training.mean, training.std, draws)
    mark()
    z_i, z_j = training.project(x_i, x_j)
    mark()
    loss = nt_xent_loss(z_i, z_j, training.config.temperature)
    mark()
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    mark()
    training.optimizer.step()
    mark()
    return [end - start for start, end in pairwise(marks)]


def main(argv: Sequence[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256, help="images a step")
    parser.add_argument("--width", type=float, help="of the ResNet-18; default 1 on a GPU, 0.25 on a CPU")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", choices=COMPILE, nargs="+", default=[], metavar="MODE",
                        help=f"of {', '.join(COMPILE)}: also measure the step compiled so")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="one round of a tiny step, to try it out")
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    precision = resolve_precision(args.precision, device)
    batch, width = args.batch, args.width or (1.0 if device == "cuda" else 0.25)
    rounds, side = args.rounds, 8192 if device == "cuda" else 2048
    if args.quick:
        batch, width, rounds, side = 8, 1 / 16, 1, 256
    torch.set_num_threads(args.threads)
    data = generated_data(batch)
    config = PretrainConfig("generated", (0, batch), "resnet18", width, augmentation="best", head="mlp_bn",
                            head_hidden=512, head_dim=128, batch_size=batch, epochs=1, precision=precision,
                            device=device)  # fmt: skip
    training = prepare(config, data)
    times = 10 if device == "cuda" else 1  # a GPU is waited for now and then, as in training
    draws, parts = torch.Generator().manual_seed(0), []
    runs = {
        "step": whole_steps(training, times),
        "product": matrix_products(precision, device, side, times),
        "parts": lambda: parts.append(time_parts(training, draws)) or batch,
    }
    compiling = {}
    for mode in args.compile:
        runs[mode] = whole_steps(prepare(config, data, mode), times)
        started = time.perf_counter()
        runs[mode]()
        compiling[mode] = time.perf_counter() - started
    seconds = interleave(runs, rounds, at_least=0 if args.quick else 1)
    spent = [median(values) for values in zip(*parts[1:], strict=True)]
    flops = pretrain_flops(config, data) / batch
    rows = [
        {"part": part, "ms": 1000 * s, "percent": 100 * s / sum(spent)} for part, s in zip(PARTS, spent, strict=True)
    ]
    rows.append({"part": "whole step, not interrupted", "ms": 1000 * batch * median(seconds["step"]), "percent": ""})
    rows += [
        {"part": f"whole step, compiled ({mode}; {took:.0f} s to compile)", "ms": 1000 * batch * median(seconds[mode]),
         "percent": ""} for mode, took in compiling.items()
    ]  # fmt: skip
    return Result(
        environment(["torch"], device),
        f"ResNet-18, width {width:g}, batch {batch} (two views each), {precision} on {device}; "
        f"{flops / 1e9:.3g} GFLOP an image, matrix product of side {side} at "
        f"{1e-12 / median(seconds['product']):.3g} TFLOP/s; medians of {rounds} interleaved rounds",
        rows,
        {
            "images per second": 1 / median(seconds["step"]),
            "share of the measured matrix peak": median(
                flops * product / step for step, product in zip(seconds["step"], seconds["product"], strict=True)
            ),
        }
        | {
            f"time of the step, of the one compiled ({mode})": median(
                plain / compiled for plain, compiled in zip(seconds["step"], seconds[mode], strict=True)
            )
            for mode in compiling
        },
    ).show()


if __name__ == "__main__":
    main()
