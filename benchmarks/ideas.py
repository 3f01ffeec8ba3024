"""Ideas for the record recipe, each tried at the same cost: kNN on training images held back, after equally many
floating-point operations as the published recipe takes for --epochs.

The published recipe (dkobak/simclr-cifar10) changed in one place by each idea, at a size that a CPU manages: --images
of CIFAR-10, a narrow ResNet-18, few epochs. What wins here is to be tried first at full size, no more. The test images
are never read. Every trial is stored under benchmarks/out/ideas and not made again (remove it after changing an idea).
Run: python benchmarks/ideas.py --seeds 0 1 --only joint muon
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch
from common import Result, environment
from record import PUBLISHED, VALIDATION
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_core.augment import apply_recipe, draw_parameters, view_recipe
from simclr_core.data import Dataset, load_dataset
from simclr_core.errors import UserError
from simclr_core.evaluate import encode, knn_accuracy
from simclr_core.loss import nt_xent_loss
from simclr_core.optim import build_optimizer, lr_factor
from simclr_core.pretrain import PretrainConfig, generator, resolve_device, resolve_precision
from simclr_core.runs import write_atomically

SMALL = 24  # pixels, of the smaller views
STORE = Path(__file__).resolve().parent / "out/ideas"


@dataclass(frozen=True)
class Idea:
    """What is changed in the published recipe; the defaults are the recipe itself."""

    lr: float = 1.0  # times the recipe's
    temperature: float = 0.5
    batch: float = 1.0  # times the recipe's, the learning rate alike
    joint: bool = False  # BN statistics over all views
    optimizer: str = "sgd"  # nesterov, or one of simclr_core.optim
    triangle: bool = False  # learning rate up for a fifth of the steps, then down to 0, both linearly; else cosine
    ema: float = 0.0  # weight of the past in the moving average of the weights that is scored
    alternating: bool = False  # an image is mirrored in every other epoch, its two views not alike; else at random
    small: float = 0.0  # share of the operations spent on views of SMALL x SMALL pixels, first
    views: int = 2  # of each image, all pairs of them compared; images a step fewer in proportion
    grayscale: float = 0.1  # its probability
    crop: float = 0.2  # least share of the image in a crop


IDEAS = {
    "published": Idea(),
    "half the rate": Idea(lr=0.5),
    "twice the rate": Idea(lr=2),
    "four times the rate": Idea(lr=4),
    "joint": Idea(joint=True),
    "nesterov": Idea(optimizer="nesterov"),
    "adam": Idea(optimizer="adam", lr=1 / 30),  # 0.001 at batch 128, R1's and R2's
    "adam, twice the rate": Idea(optimizer="adam", lr=2 / 30),
    "muon": Idea(optimizer="muon", lr=0.1),  # 0.003 at batch 128
    "muon, twice the rate": Idea(optimizer="muon", lr=0.2),
    "muon, four times the rate": Idea(optimizer="muon", lr=0.4),
    "muon, eight times the rate": Idea(optimizer="muon", lr=0.8),
    "muon, joint": Idea(optimizer="muon", lr=0.1, joint=True),
    "fast muon, joint": Idea(optimizer="muon", lr=0.4, joint=True),
    "fast muon, temperature 0.2": Idea(optimizer="muon", lr=0.4, temperature=0.2),
    "fast muon, temperature 0.1": Idea(optimizer="muon", lr=0.4, temperature=0.1),
    "fast muon, half the batch": Idea(optimizer="muon", lr=0.4, batch=0.5),
    "fast muon, triangle": Idea(optimizer="muon", lr=0.4, triangle=True),
    "fast muon, ema": Idea(optimizer="muon", lr=0.4, ema=0.99),
    "fast muon, grayscale 0.2": Idea(optimizer="muon", lr=0.4, grayscale=0.2),
    "triangle": Idea(triangle=True),
    "ema": Idea(ema=0.99),
    "alternating": Idea(alternating=True),
    "small first": Idea(small=0.5),
    "four views": Idea(views=4),
    "half the batch": Idea(batch=0.5),
    "temperature 0.2": Idea(temperature=0.2),
    "grayscale 0.2": Idea(grayscale=0.2),
    "crop 0.3": Idea(crop=0.3),
}


class Trial:
    """One idea trained from one seed."""

    def __init__(self, idea: Idea, config: PretrainConfig, data: Dataset):
        self.idea, self.config, self.data = idea, config, data
        record = data.record()
        encoder, head = config.build_encoder(record), config.build_projection_head(record)
        self.model = nn.Sequential(encoder, head).to(config.device, memory_format=torch.channels_last)
        self.average = deepcopy(self.model) if idea.ema else None
        self.images = data.train.images[slice(*config.images)].to(config.device)
        self.recipe = replace(view_recipe(config.augmentation), grayscale_p=idea.grayscale, crop_scale=(idea.crop, 1.0))
        name, options = idea.optimizer.replace("nesterov", "sgd"), (config.lr, config.weight_decay, config.momentum)
        self.optimizer = build_optimizer(name, [self.model], *options)
        for group in self.optimizer.param_groups:
            group["nesterov"] = idea.optimizer == "nesterov"  # sgd's; no other optimiser looks for it

    def train(self) -> float:
        """The seconds it took."""
        idea, config, started = self.idea, self.config, time.perf_counter()
        (small_steps, steps), n = self.steps(), config.batch_size * 2 // idea.views
        rate, drawn = self.optimizer.param_groups[0]["lr"], self.batches(n)
        for step in range(steps):
            epoch, rows = next(drawn)
            views = self.views(rows, epoch, step)
            if step < small_steps:
                views = F.interpolate(views, size=SMALL, mode="bilinear", antialias=True)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * self.factor(step, steps)
            self.optimizer.zero_grad()
            self.loss(views).backward()
            self.optimizer.step()
            if self.average:
                keep = min(idea.ema, (step + 1) / (step + 10))  # as torch_ema and TensorFlow begin
                with torch.no_grad():
                    pairs = zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
                    for mean, value in pairs:
                        mean.lerp_(value, 1 - keep) if mean.is_floating_point() else mean.copy_(value)
        return time.perf_counter() - started

    def steps(self) -> tuple[int, int]:
        """Steps on small views, and all steps, that together cost what the recipe's epochs on whole views do."""
        whole = self.config.epochs * len(self.images) / self.config.batch_size
        small = self.idea.small * whole * (self.images.shape[1] / SMALL) ** 2
        return round(small), round(small + (1 - self.idea.small) * whole)

    def batches(self, n: int) -> Iterator[tuple[int, Tensor]]:
        """Rows of n images, epoch after epoch; what is left over at an epoch's end is left out."""
        for epoch in range(10**6):
            order = torch.randperm(len(self.images), generator=generator(self.config.seed, "order", epoch))
            yield from ((epoch, rows) for rows in order.split(n) if len(rows) == n)

    def factor(self, step: int, steps: int) -> float:
        if self.idea.triangle:
            return min((step + 1) / (steps / 5), (steps - step) / (steps * 4 / 5))
        return lr_factor("cosine", step, steps)

    def views(self, rows: Tensor, epoch: int, step: int) -> Tensor:
        """All first views, then all second ones and so on: (views N, C, S, S)."""
        images, idea = self.images[rows], self.idea
        draws = generator(self.config.seed, "views", step)
        parameters = draw_parameters(self.recipe, idea.views * len(rows), *images.shape[1:3], draws)
        if idea.alternating:
            ever = torch.rand(len(self.images), generator=generator(self.config.seed, "views", 10**6)) < 0.5
            mirrored = torch.cat([ever[rows] ^ bool((epoch + k) % 2) for k in range(idea.views)])
            parameters = replace(parameters, flipped=mirrored)
        repeated = images.repeat(idea.views, 1, 1, 1)
        return apply_recipe(repeated, self.recipe, parameters, self.data.mean, self.data.std)

    def loss(self, views: Tensor) -> Tensor:
        idea = self.idea
        with torch.autocast(self.config.device, torch.bfloat16, enabled=self.config.precision == "bf16"):
            parts = [views] if idea.joint else views.chunk(idea.views)
            z = torch.cat([self.model(x) for x in parts]).chunk(idea.views)
        losses = [nt_xent_loss(z_i, z_j, idea.temperature) for z_i, z_j in combinations(z, 2)]
        return torch.stack(losses).mean()

    def score(self) -> float:
        """Accuracy of kNN (k = 10, cosine) on the images held back, by the images trained on."""
        encoder = (self.average or self.model)[0].eval()
        device = self.config.device
        everything = len(self.data.train)
        held_back = round((1 - VALIDATION) * everything), everything
        train, held = (self.data.train.part(*part) for part in (self.config.images, held_back))
        h, h_held = (encode(encoder, part.images, self.data, device) for part in (train, held))
        return knn_accuracy(h, train.labels.to(h.device), h_held, held.labels.to(h.device), k=10)


def trial(name: str, seed: int, data: Dataset, options: argparse.Namespace) -> dict:
    """The stored trial, or a new one."""
    idea = IDEAS[name]
    batch = round(options.batch * idea.batch)
    device = resolve_device("auto")
    config = replace(
        PUBLISHED, dataset=data.name, images=(0, options.images), width=options.width, epochs=options.epochs,
        batch_size=batch, lr=0.06 * idea.lr * batch / 256, seed=seed, device=device,
        precision=resolve_precision("auto", device),
    )  # fmt: skip
    setting = f"{data.name}-{options.images}-{options.epochs}-{options.batch}-{options.width:g}-{device}"
    path = options.store / setting / f"{name.replace(' ', '_')}-{seed}.json"
    if not path.is_file():
        work = Trial(idea, config, data)
        seconds = work.train()
        write_atomically(path, json.dumps({"seconds": seconds, "accuracy": work.score()}).encode())
    return json.loads(path.read_text())


def rows(tried: dict[str, dict[int, dict]]) -> list[dict]:
    """The table: kNN of each seed, and the mean difference from the published recipe of the same seeds."""
    table = []
    for name, by_seed in tried.items():
        base = tried["published"]
        ahead = [100 * (by_seed[s]["accuracy"] - base[s]["accuracy"]) for s in by_seed if s in base]
        table.append({
            "idea": name,
            "kNN (%), each seed": ", ".join(f"{100 * by_seed[s]['accuracy']:.2f}" for s in sorted(by_seed)),
            "ahead (points)": f"{mean(ahead):+.2f}",
            "seconds": mean(trial["seconds"] for trial in by_seed.values()),
        })  # fmt: skip
    return table


def main(argv: Sequence[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="IDEA", help=f"of {', '.join(IDEAS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10, help="of the published recipe; each idea costs as much")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="drawn shapes, a narrow network, one epoch: a trial")
    options = parser.parse_args(argv)
    if unknown := set(options.only or []) - set(IDEAS):
        parser.error(f"unknown idea {', '.join(sorted(unknown))}; known are {', '.join(IDEAS)}")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    try:
        data = load_dataset("shapes" if options.quick else "cifar10")
    except UserError as error:
        sys.exit(f"error: {error}")
    names = ["published", *(name for name in options.only or IDEAS if name != "published")]
    if options.quick:
        options.images, options.epochs, options.batch, options.width = 128, 1, 64, 1 / 16
    with TemporaryDirectory() as none:
        options.store = Path(none) if options.quick else STORE
        tried = {name: {seed: trial(name, seed, data, options) for seed in options.seeds} for name in names}
    setting = (
        f"{options.images:,} images of {data.name}, ResNet-18 of width {options.width:g}, batch {options.batch}, the "
        f"operations of {options.epochs} epochs; kNN on training images held back; seeds "
        f"{', '.join(map(str, options.seeds))}; seconds as they fell out, whatever else ran"
    )
    scores = {name: mean(one["accuracy"] for one in by_seed.values()) for name, by_seed in tried.items()}
    best = max(scores, key=scores.get)
    ratio = {f"kNN accuracy of {best} beside the published recipe": scores[best] / scores["published"]}
    return Result(environment(["torch"], resolve_device("auto")), setting, rows(tried), ratio).show()


if __name__ == "__main__":
    main()
