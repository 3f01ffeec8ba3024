"""R2's MNIST study, pre-training to test accuracy: simclr_core beside the straightforward form, on the same threads.

The straightforward form is what R2 describes, written out: views made image by image with PIL, a forward for each
view, the broadcast cosine similarity, fp32, and a classifier that runs the frozen encoder again for every batch of
every epoch; it reads the test images once, at the end. Ours is `pretrain` and `fit_probe` with precision auto; it
scores the test images after every epoch.

Both pre-train in turns on the first --images of the study's, from the same weights, scaled to all images and epochs.
Of the classifier phase ours runs in full; the straightforward form one epoch and a pass over 2,000 test images, scaled.
MNIST from --data or $SIMCLR_DATA; without it, scikit-learn's digits. Run: python benchmarks/mnist_study.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from statistics import median
from tempfile import TemporaryDirectory

import torch
from common import Result, environment, interleave, speedup
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms as T

from labreport.measure import fit_probe
from labreport.store import pretrain
from simclr_core.config import PretrainConfig
from simclr_core.data import Dataset, Split, load_dataset
from simclr_core.errors import DataNotFound
from simclr_core.evaluate import ProbeConfig
from simclr_core.precision import resolve_precision

SLOW, OURS = "straightforward", "simclr_core"


# ---- the straightforward form -----------------------------------------------------------------------------


class Pictures(torch.utils.data.Dataset):
    """The images of a split, each as the views that `transforms` make of it, and its label."""

    def __init__(self, split: Split, *transforms: Callable):
        self.images, self.labels = split.images[..., 0].numpy(), split.labels.tolist()
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple:
        picture = Image.fromarray(self.images[index])
        return *(transform(picture) for transform in self.transforms), self.labels[index]


PLAIN = T.Compose([T.ToTensor(), T.Normalize(0.1307, 0.3081)])
AUGMENTED = T.Compose(
    [
        T.RandomHorizontalFlip(0.5),
        T.RandomApply([T.RandomResizedCrop(28, scale=(0.8, 1.0))], 0.5),
        T.RandomApply([T.GaussianBlur(5, (0.1, 2.0))], 0.3),
        T.RandomRotation(15),
        PLAIN,
    ]
)


def build_encoder() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 128),
    )  # fmt: skip


def broadcast_nt_xent(z_i: Tensor, z_j: Tensor, temperature: float) -> Tensor:
    z = torch.cat([z_i, z_j])
    similarity = F.cosine_similarity(z[:, None], z[None], dim=2) / temperature  # (2N, 2N) through (2N, 2N, D)
    similarity = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    return F.cross_entropy(similarity, torch.arange(len(z)).roll(len(z_i)))


class Straightforward:
    """The study as a plain script would have it, from the same initial weights as ours."""

    def __init__(self, config: PretrainConfig, data: Dataset, images: int, labels: tuple[int, int], scored: int):
        train = data.train
        self.encoder, self.temperature = build_encoder(), config.temperature
        weights = config.build_encoder(train.images.shape[1:]).state_dict().values()
        self.encoder.load_state_dict(dict(zip(self.encoder.state_dict(), weights, strict=True)))
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32))
        self.head.load_state_dict(config.build_projection_head(128).state_dict())
        self.classifier = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
        self.optimizer = torch.optim.Adam([*self.encoder.parameters(), *self.head.parameters()], lr=0.001)
        self.classifier_optimizer = torch.optim.Adam(self.classifier.parameters(), lr=0.001)
        pairs = Pictures(Split(train.images[:images], train.labels[:images]), PLAIN, AUGMENTED)
        labelled = Pictures(Split(train.images[slice(*labels)], train.labels[slice(*labels)]), PLAIN)
        tested = Pictures(Split(data.test.images[:scored], data.test.labels[:scored]), PLAIN)
        self.pairs = DataLoader(pairs, config.batch_size, shuffle=True)
        self.labelled, self.tested = DataLoader(labelled, 128, shuffle=True), DataLoader(tested, 128)

    def loss(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        z_i, z_j = self.head(self.encoder(x_i)), self.head(self.encoder(x_j))
        return broadcast_nt_xent(z_i, z_j, self.temperature)

    def pretraining_epoch(self) -> float:
        total = 0.0
        for x_i, x_j, _ in self.pairs:
            loss = self.loss(x_i, x_j)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(x_i)
        return total / len(self.pairs.dataset)

    def classifier_epoch(self) -> int:
        for x, labels in self.labelled:
            with torch.no_grad():
                h = self.encoder(x)
            loss = F.cross_entropy(self.classifier(h), labels)
            self.classifier_optimizer.zero_grad()
            loss.backward()
            self.classifier_optimizer.step()
        return len(self.labelled.dataset)

    @torch.no_grad()
    def test(self) -> int:
        correct = 0
        for x, labels in self.tested:
            correct += (self.classifier(self.encoder(x)).argmax(1) == labels).sum().item()
        return len(self.tested.dataset)


# ---- both, side by side -------------------------------------------------------------------------------------


def study(data: Dataset, batch_size: int) -> tuple[PretrainConfig, ProbeConfig]:
    """R2's protocol: the training images in ten parts, four to pre-train, the fifth for the classifier."""
    part, precision = len(data.train) // 10, resolve_precision("auto", "cpu")
    config = PretrainConfig(data.name, (0, 4 * part), batch_size=batch_size, precision=precision)
    return config, ProbeConfig((4 * part, 5 * part), hidden=64)


def time_pretraining(slow: Straightforward, config: PretrainConfig, data: Dataset, images: int, rounds: int):
    """Seconds an image of both forms, and the loss of their last rounds; a round is an epoch of `images` images."""
    seconds, losses = [], []

    def run_slow(_: dict) -> None:
        started = time.perf_counter()
        losses.append(slow.pretraining_epoch())
        seconds.append(time.perf_counter() - started)

    with TemporaryDirectory() as store:  # one round to warm up
        ours = pretrain(replace(config, images=(0, images), epochs=rounds + 1), data, store, progress=run_slow).history
    both = {SLOW: seconds, OURS: [row["seconds"] for row in ours]}
    return (
        {name: [s / images for s in values[1:]] for name, values in both.items()},
        {SLOW: losses[-1], OURS: ours[-1]["loss"]},
    )


def time_classifier(slow: Straightforward, config: PretrainConfig, probe: ProbeConfig, data: Dataset, rounds: int):
    """Seconds of the whole phase in both forms, test images included; ours on another encoder each round."""
    seeds = count()
    with TemporaryDirectory() as store:
        untrained = [pretrain(replace(config, objective="none", seed=k), data, store) for k in range(rounds + 1)]

        def run_ours() -> int:
            fit_probe(untrained[next(seeds)], data, probe)
            return 1

        runs = {"epoch": slow.classifier_epoch, "test": slow.test, OURS: run_ours}
        seconds = interleave(runs, rounds, at_least=0)
    labels = probe.labels[1] - probe.labels[0]
    both = zip(seconds["epoch"], seconds["test"], strict=True)
    return {SLOW: [probe.epochs * labels * e + len(data.test) * t for e, t in both], OURS: seconds[OURS]}


def time_study(config: PretrainConfig, probe: ProbeConfig, data: Dataset, images: int, rounds: int):
    """Seconds of each phase and of the whole study in both forms, and the losses of their last rounds."""
    slow = Straightforward(config, data, images, probe.labels, scored=2_000)
    seconds, losses = time_pretraining(slow, config, data, images, rounds)
    everything = config.images[1] * config.epochs
    phases = {"pre-training": {name: [everything * s for s in values] for name, values in seconds.items()}}
    phases["classifier and test"] = time_classifier(slow, config, probe, data, rounds)
    phases["study"] = {name: list(map(sum, zip(*(phase[name] for phase in phases.values()), strict=True)))
                       for name in (SLOW, OURS)}  # fmt: skip
    return phases, losses


def run_in_full(config: PretrainConfig, probe: ProbeConfig, data: Dataset) -> str:
    with TemporaryDirectory() as store:
        started = time.perf_counter()
        result = fit_probe(pretrain(config, data, store), data, probe)
        seconds = time.perf_counter() - started
    return f"; ours at batch {config.batch_size} in full: {seconds:.0f} s, test accuracy {result['accuracy']:.4f}"


def load(quick: bool, folder: str | None) -> Dataset:
    if not quick:
        try:
            return load_dataset("mnist", folder, download=False)
        except DataNotFound:
            print("MNIST is not here (--data, $SIMCLR_DATA): scikit-learn's digits take its place")
    return load_dataset("digits")


def main(argv: Sequence[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with MNIST/raw")
    parser.add_argument("--threads", type=int, default=1, help="of both forms")
    parser.add_argument("--batch", type=int, nargs="+", default=(256, 512), help="of the pre-training (R2's: 256)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2_560, help="pre-trained on in a round")
    parser.add_argument("--full", action="store_true", help="also run ours in full, to check the scaling")
    parser.add_argument("--quick", action="store_true", help="one round of one step on digits, to try it out")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    data = load(args.quick, args.data)
    rounds = 1 if args.quick else args.rounds
    rows, ratios, in_full = [], {}, ""
    for batch_size in args.batch:
        config, probe = study(data, batch_size)
        images = batch_size if args.quick else min(args.images, config.images[1])
        phases, losses = time_study(config, probe, data, images, rounds)
        rows += [
            {"": f"batch {batch_size}: {phase}, seconds", SLOW: median(values[SLOW]), OURS: median(values[OURS]),
             "ratio": speedup(values, OURS, SLOW)} for phase, values in phases.items()
        ]  # fmt: skip
        label = f"batch {batch_size}: loss in epoch {rounds + 1} on the {images:,} images of a round, nats"
        rows.append({"": label, **losses, "ratio": losses[SLOW] / losses[OURS]})
        label = f"times as fast as the straightforward form at batch {batch_size}"
        ratios[label] = speedup(phases["study"], OURS, SLOW)
        if args.full:
            in_full += run_in_full(config, probe, data)
    setting = (
        f"{data.source}: {config.images[1]:,} images, {config.epochs} epochs; {probe.labels[1] - probe.labels[0]:,} "
        f"labels, {probe.epochs} epochs; {len(data.test):,} test images. Ours in {config.precision}. Scaled from "
        f"medians of {rounds} interleaved rounds{in_full}"
    )
    return Result(environment(["torch", "torchvision", "pillow"]), setting, rows, ratios).show()


if __name__ == "__main__":
    main()
