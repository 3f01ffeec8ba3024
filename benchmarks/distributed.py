"""Images a second of one training step on one process and on two, side by side on one machine.

The same global batch, cut in two; views, forward, gathered loss, backward, summed gradients and optimiser as training
itself goes (simclr_core.scale), on generated images, one thread (or one GPU) a process. All kinds run in turn, so other
load meets them alike. Run: python benchmarks/distributed.py --batch 256 --width 0.25
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
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
)

from simclr_core.scale.processes import ALONE, Processes
from simclr_core.scale.training import ScaledTraining
from simclr_core.train import Training


def steps(training: Training, times: int) -> Callable[[], int]:
    """The training's own steps, the device waited for after each, as each is an epoch."""
    loop = iter(training)

    def run() -> int:
        for _ in range(times):
            next(loop)
        return times * training.batch_size

    return run


def main(argv: Sequence[str] | None = None) -> Result | None:
    parser = step_parser(__doc__, 256, 7, "images a step, over all processes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--times", type=int, default=2, help="steps of each kind a round")
    args = parser.parse_args(argv)
    if "RANK" not in os.environ:
        words = ["--standalone", f"--nproc-per-node={args.processes}", __file__, *(argv or sys.argv[1:])]
        raise SystemExit(subprocess.call([sys.executable, "-m", "torch.distributed.run", *words]))
    processes = Processes.start()
    config = step_config(args, quick_batch=8)
    if config.device == "cuda":
        torch.cuda.set_device(processes.rank)
    name = f"{processes.count} processes"
    kinds = {"1 process": ALONE, f"{name}, each with its own BN": replace(processes, batch_norm_sync=False),
             name: processes}  # fmt: skip
    data = generated_data(config.batch_size)
    trainings = {kind: config.training(data, partial(ScaledTraining, processes=who)) for kind, who in kinds.items()}
    runs = {kind: steps(training, args.times) for kind, training in trainings.items()}

    def alone(run: Callable[[], int] = runs["1 process"]) -> int:  # the first process works, the others wait for it
        units = run() if processes.rank == 0 else config.batch_size
        processes.barrier()
        return units

    seconds = interleave({**runs, "1 process": alone}, args.rounds, at_least=0)
    if processes.rank > 0:
        return None
    return Result(
        environment(["torch"], config.device),
        f"{step_setting(config)}; medians of {args.rounds} interleaved rounds",
        [{"trained by": kind, "images a second": 1 / median(values)} for kind, values in seconds.items()],
        {f"{name}, times the images a second of one": speedup(seconds, name, "1 process")},
    ).show()


if __name__ == "__main__":
    main()
