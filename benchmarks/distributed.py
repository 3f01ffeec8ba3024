"""Images a second of one training step on one process and on two, side by side on one machine.

The same global batch, cut in two; views, forward, gathered loss, backward, summed gradients and optimiser by
simclr_core.pretrain's own parts on generated images, one thread (or one GPU) a process. All kinds run in turn, so other
load meets them alike. Run: python benchmarks/distributed.py --batch 256 --width 0.25
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from common import Result, environment, interleave, speedup
from step import generated_data, wait

from simclr_core.augment import make_views
from simclr_core.distributed import ALONE, Processes
from simclr_core.pretrain import PretrainConfig, _Training, generator, resolve_device, resolve_precision
from simclr_core.runs import Run


def steps(training: _Training, times: int) -> Callable[[], int]:
    share = training.shares[training.config.batch_size]

    def run() -> int:
        own = training.images[share.rows.to(training.images.device)]
        for k in range(times):
            draws = generator(0, "views", k)
            x = make_views(own, training.recipe, training.mean, training.std, draws, share.rows, share.n)
            training.step(*x, share)
        wait(training.config.device)
        return times * share.n

    return run


def main(argv: Sequence[str] | None = None) -> Result | None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256, help="images a step, over all processes")
    parser.add_argument("--width", type=float, help="of the ResNet-18; default 1 on a GPU, 0.25 on a CPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--times", type=int, default=2, help="steps of each kind a round")
    parser.add_argument("--quick", action="store_true", help="one round of a tiny step, to try it out")
    args = parser.parse_args(argv)
    if "RANK" not in os.environ:
        words = ["--standalone", f"--nproc-per-node={args.processes}", __file__, *(argv or sys.argv[1:])]
        raise SystemExit(subprocess.call([sys.executable, "-m", "torch.distributed.run", *words]))
    processes, device = Processes.start(), resolve_device(args.device)
    torch.set_num_threads(1)
    batch, width = (8, 1 / 16) if args.quick else (args.batch, args.width or (1.0 if device == "cuda" else 0.25))
    if device == "cuda":
        torch.cuda.set_device(processes.rank)
    precision = resolve_precision("auto", device)
    config = PretrainConfig("generated", (0, batch), "resnet18", width, augmentation="best", head="mlp_bn",
                            head_hidden=512, head_dim=128, batch_size=batch, epochs=1, precision=precision,
                            device=device)  # fmt: skip
    name = f"{processes.count} processes"
    kinds = {"1 process": ALONE, f"{name}, each with its own BN": replace(processes, batch_norm_sync=False),
             name: processes}  # fmt: skip
    data, run = generated_data(batch), Run(Path("benchmark"), config)
    runs = {kind: steps(_Training(run, data, (), None, who), args.times) for kind, who in kinds.items()}

    def alone(run: Callable[[], int] = runs["1 process"]) -> int:  # the first process works, the others wait for it
        units = run() if processes.rank == 0 else batch
        processes.meet()
        return units

    seconds = interleave({**runs, "1 process": alone}, 1 if args.quick else args.rounds, at_least=0)
    if processes.rank > 0:
        return None
    return Result(
        environment(["torch"], device),
        f"ResNet-18, width {width:g}, batch {batch} (two views each), {precision} on {device}; "
        f"medians of {len(seconds[name])} interleaved rounds",
        [{"trained by": kind, "images a second": 1 / median(values)} for kind, values in seconds.items()],
        {f"{name}, times the images a second of one": speedup(seconds, name, "1 process")},
    ).show()


if __name__ == "__main__":
    main()
