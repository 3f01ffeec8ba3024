"""Ideas for the record recipe, each tried at the same cost: kNN on training images held back, after --epochs.

The published recipe (dkobak/simclr-cifar10) changed in one place by each idea, at a size that a CPU manages: --images
of CIFAR-10, a narrow ResNet-18, few epochs. What wins here is to be tried first at full size, no more. The test images
are never read. Trials are runs of the run store, under benchmarks/out/ideas: none is made twice.
Run: python benchmarks/ideas.py --seeds 0 1 --only joint muon
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch
from common import Result, environment
from record import PUBLISHED, VALIDATION

from labreport.measure import knn
from labreport.store import Run, pretrain
from simclr_core.augment import view_recipe
from simclr_core.config import Own, PretrainConfig
from simclr_core.data import Dataset, load_dataset
from simclr_core.errors import UserError
from simclr_core.precision import resolve_device, resolve_precision

STORE = Path(__file__).resolve().parent / "out/ideas"
MUON = {"optimizer": "muon", "lr": 0.1}  # 0.003 at batch 128
FAST_MUON = {"optimizer": "muon", "lr": 0.4}
GREY = {"own": Own(views=replace(view_recipe(PUBLISHED.augmentation), grayscale_p=0.2))}
IDEAS: dict[str, dict] = {  # what is changed in the recipe; lr and batch_size: as factors on the recipe's
    "published": {},
    "half the rate": {"lr": 0.5},
    "twice the rate": {"lr": 2.0},
    "joint": {"batch_norm": "joint"},
    "adam": {"optimizer": "adam", "lr": 1 / 30},  # 0.001 at batch 128, R1's and R2's
    "muon": MUON,
    "muon, joint": {**MUON, "batch_norm": "joint"},
    "fast muon": FAST_MUON,
    "fast muon, joint": {**FAST_MUON, "batch_norm": "joint"},
    "fast muon, temperature 0.2": {**FAST_MUON, "temperature": 0.2},
    "fast muon, temperature 0.1": {**FAST_MUON, "temperature": 0.1},
    "fast muon, half the batch": {**FAST_MUON, "batch_size": 0.5},
    "fast muon, grayscale 0.2": {**FAST_MUON, **GREY},
    "half the batch": {"batch_size": 0.5},
    "temperature 0.2": {"temperature": 0.2},
    "grayscale 0.2": GREY,
    "crop 0.3": {"own": Own(views=replace(view_recipe(PUBLISHED.augmentation), crop_scale=(0.3, 1.0)))},
}


def configure(name: str, seed: int, data: Dataset, options: argparse.Namespace) -> PretrainConfig:
    idea, device = IDEAS[name], resolve_device("auto")
    batch = round(options.batch * idea.get("batch_size", 1))
    sizes = {"batch_size": batch, "lr": 0.06 * idea.get("lr", 1) * batch / 256}
    return replace(
        PUBLISHED, dataset=data.name, images=(0, options.images), width=options.width, epochs=options.epochs,
        seed=seed, device=device, precision=resolve_precision("auto", device), **(idea | sizes),
    )  # fmt: skip


def score(run: Run, data: Dataset) -> float:
    """Accuracy of kNN (k = 10, cosine) on the images held back, by the images trained on."""
    everything = len(data.train)
    held_back = round((1 - VALIDATION) * everything), everything
    return knn(run, data, run.config.images, k=10, scored_on=held_back)["accuracy"]


def rows(tried: dict[str, dict[int, tuple[float, float]]]) -> list[dict]:
    """The table: kNN of each seed, and the mean difference from the published recipe of the same seeds."""
    base = tried["published"]
    return [{
        "idea": name,
        "kNN (%), each seed": ", ".join(f"{100 * accuracy:.2f}" for accuracy, _ in by_seed.values()),
        "ahead (points)": f"{mean(100 * (by_seed[s][0] - base[s][0]) for s in by_seed):+.2f}",
        "seconds": mean(seconds for _, seconds in by_seed.values()),
    } for name, by_seed in tried.items()]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="IDEA", help=f"of {', '.join(IDEAS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="drawn shapes, a narrow network, one epoch: a trial")
    options = parser.parse_args(argv)
    if unknown := set(options.only or []) - set(IDEAS):
        parser.error(f"unknown idea {', '.join(sorted(unknown))}; known are {', '.join(IDEAS)}")
    torch.set_num_threads(options.threads)
    try:
        data = load_dataset("shapes" if options.quick else "cifar10")
    except UserError as error:
        sys.exit(f"error: {error}")
    if options.quick:
        options.images, options.epochs, options.batch, options.width = 128, 1, 64, 1 / 16
    tried: dict[str, dict[int, tuple[float, float]]] = {}  # accuracy and seconds
    with TemporaryDirectory() as none:
        for name in ["published", *(name for name in options.only or IDEAS if name != "published")]:
            configs = {seed: configure(name, seed, data, options) for seed in options.seeds}
            runs = {s: pretrain(config, data, none if options.quick else STORE) for s, config in configs.items()}
            tried[name] = {seed: (score(run, data), run.seconds) for seed, run in runs.items()}
    setting = (
        f"{options.images:,} images of {data.name}, ResNet-18 of width {options.width:g}, batch {options.batch}, "
        f"{options.epochs} epochs; kNN on training images held back; seeds {', '.join(map(str, options.seeds))}; "
        "seconds of pre-training as they fell out, whatever else ran"
    )
    scores = {name: mean(accuracy for accuracy, _ in by_seed.values()) for name, by_seed in tried.items()}
    best = max(scores, key=scores.get)
    ratio = {f"kNN accuracy of {best} beside the published recipe": scores[best] / scores["published"]}
    return Result(environment(["torch"], resolve_device("auto")), setting, rows(tried), ratio).show()


if __name__ == "__main__":
    main()
