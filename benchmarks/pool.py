"""Several equal runs by one worker process and by two, one CPU thread each: how much less time two take.

The runs of `run_all.sh --workers 1` and `--workers 2`, without notebooks; the processes' start is part of the time.
Run: python benchmarks/pool.py
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from common import Result, environment

from labreport.run.plan import Cost, PlannedRun
from labreport.run.progress import Reporter
from labreport.store.identity import run_name
from labreport.workers.pool import Computation
from labreport.workers.processes import Processes
from simclr_core.config import PretrainConfig
from simclr_core.data import load_dataset


def seconds_with(workers: int, configs: Sequence[PretrainConfig]) -> float:
    """Wall time until all of them are in a fresh store."""
    data, reporter = load_dataset("digits"), Reporter(io.StringIO())
    with tempfile.TemporaryDirectory() as store:
        runs = [PlannedRun(run_name(config, data), config, data, False) for config in configs]
        cost = {run.name: Cost(0.0, 0.0) for run in runs}
        started = time.perf_counter()
        failed = Computation(Processes(workers, "cpu", reporter), Path(store), {}, cost, reporter).run(runs)
        assert not failed, failed
        return time.perf_counter() - started


def main(argv: Sequence[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10, help="of each run: 1,024 digits, batch 256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of two tiny runs, to try it out")
    args = parser.parse_args(argv)
    runs, epochs, rounds = (2, 1, 1) if args.quick else (args.runs, args.epochs, args.rounds)
    config = PretrainConfig("digits", (0, 1024), batch_size=256, epochs=epochs)
    configs = [replace(config, seed=seed) for seed in range(runs)]
    seconds = {workers: [] for workers in (1, 2)}
    for _ in range(rounds):  # in turn: other load on the machine meets both alike
        for workers, values in seconds.items():
            values.append(seconds_with(workers, configs))
    ratio = median(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    return Result(
        environment(["torch"]),
        f"{runs} runs of {epochs} epochs of 1,024 digits, batch 256; medians of {rounds} interleaved rounds",
        [{"workers": str(workers), "seconds": median(values)} for workers, values in seconds.items()],
        {"times as fast with two workers as with one": ratio},
    ).show()


if __name__ == "__main__":
    main()
