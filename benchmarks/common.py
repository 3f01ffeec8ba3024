"""What the benchmarks share: interleaved timing, peak memory, generated images, hardware and versions, the result."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_core.runs import cpu_name


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


def environment(packages: Sequence[str], device: str = "cpu") -> str:
    """GPU (device cuda), CPU, threads, load and versions in one line."""
    gpu = f"{torch.cuda.get_device_name()}; " if device == "cuda" else ""
    malloc = "tuned" if "MALLOC_TOP_PAD_" in os.environ else "default"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{gpu}{cpu_name()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"{torch.get_num_threads()} thread(s), malloc {malloc}; Python {platform.python_version()}, {versions}"
    )
