"""What the benchmarks share: interleaved timing, peak memory, the step on generated images, the result and where."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labreport.store.provenance import cpu_name
from simclr_core.config import PretrainConfig
from simclr_core.data import Dataset, Split
from simclr_core.precision import resolve_device, resolve_precision


@dataclass(frozen=True)
class Result:
    """What a benchmark's main() prints and returns."""

    environment: str  # hardware and versions, one line
    setting: str  # what was measured, one line
    rows: list[dict[str, str | float]]  # the table; every row has the same keys
    ratios: dict[str, float]  # the last one is what the benchmark is about

    def show(self) -> Result:
        """Print it all, the ratios last."""
        print(self.environment, self.setting, sep="\n")
        table = [list(self.rows[0]), *([cell(value) for value in row.values()] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for first, *rest in table:
            print("  " + first.ljust(widths[0]), *(text.rjust(w) for text, w in zip(rest, widths[1:], strict=True)))
        for label, ratio in self.ratios.items():
            print(f"{label}: {cell(ratio)}")
        return self


def cell(value: str | float) -> str:
    """Three digits for a number below 1,000; a text as it is."""
    return value if isinstance(value, str) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def interleave(runs: dict[str, Callable[[], int]], rounds: int, at_least: float) -> dict[str, list[float]]:
    """Seconds per unit of every candidate, one value a round; a run returns how many units it made.

    Each round, after one of warm-up, runs every candidate for `at_least` that many seconds: other load on the
    machine meets all alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            units, start = 0, time.perf_counter()
            while not units or time.perf_counter() - start < at_least:
                units += run()
            if turn:
                seconds[name].append((time.perf_counter() - start) / units)
    return seconds


def speedup(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median over the rounds of how many times faster `name` is than `base` in the same round."""
    return median(slow / fast for slow, fast in zip(seconds[base], seconds[name], strict=True))


def peak_of(run: Callable[[], int], device: str) -> tuple[float, int]:
    """Seconds of one run, and the peak of memory beyond what is held before it, in bytes (a CPU: Linux only)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
        before = _resident("VmRSS")
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    return seconds, (torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")) - before


def _resident(field: str) -> int:
    """VmRSS or VmHWM (its high-water mark) of this process, bytes. Not ru_maxrss: a child starts with its parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def generated_images(n: int, size: int, channels: int) -> Tensor:
    """uint8 (n, size, size, channels): smooth colours with some noise; always the same ones."""
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(n, channels, 5, 5, generator=generator), size=(size, size), mode="bicubic")
    noise = torch.rand(n, channels, size, size, generator=generator)
    return (0.85 * coarse + 0.15 * noise).clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1).contiguous()


def generated_data(n: int) -> Dataset:
    split = Split(generated_images(n, 32, 3), torch.zeros(n, dtype=torch.int64))
    return Dataset("generated", split, split, ("none",), (0.491, 0.482, 0.447), (0.247, 0.243, 0.262), "generated")


def step_parser(doc: str, batch: int | None, rounds: int, batch_help: str = "images a step") -> argparse.ArgumentParser:
    """The options of a benchmark of `step_config`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=batch, help=batch_help)
    parser.add_argument("--width", type=float, help="of the ResNet-18; default 1 on a GPU, 0.25 on a CPU")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--quick", action="store_true", help="one round of a tiny step, to try it out")
    return parser


def step_config(args: argparse.Namespace, quick_batch: int, gpu_batch: int = 0) -> PretrainConfig:
    """R1's form on generated images, one step an epoch, by the options of `step_parser`; threads are set.

    Args:
        gpu_batch: the batch on a GPU where none is given; 0: as on a CPU.
    """
    torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    batch, width = args.batch, args.width or (1.0 if device == "cuda" else 0.25)
    if args.quick:
        batch, width, args.rounds = quick_batch, 1 / 16, 1
    elif not batch:
        batch = gpu_batch if device == "cuda" else 1024
    return PretrainConfig("generated", (0, batch), "resnet18", width, augmentation="best", head="mlp_bn",
                          head_hidden=512, head_dim=128, batch_size=batch, epochs=1_000_000,
                          precision=resolve_precision(args.precision, device), device=device)  # fmt: skip


def step_setting(config: PretrainConfig) -> str:
    return (f"ResNet-18, width {config.width:g}, batch {config.batch_size:,} (two views each), {config.precision} on "
            f"{config.device}")  # fmt: skip


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def in_a_process_of_its_own(script: str, *words: str) -> Any:
    """What the script prints, as JSON."""
    command = [sys.executable, script, *words]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def environment(packages: Sequence[str], device: str = "cpu") -> str:
    """GPU (device cuda), CPU, threads, load and versions in one line."""
    gpu = f"{torch.cuda.get_device_name()}; " if device == "cuda" else ""
    malloc = "tuned" if "MALLOC_TOP_PAD_" in os.environ else "default"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{gpu}{cpu_name()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"{torch.get_num_threads()} thread(s), malloc {malloc}; Python {platform.python_version()}, {versions}"
    )
