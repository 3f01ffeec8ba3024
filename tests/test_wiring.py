"""The whole method against a training written apart from it: plain torch, own loop and formulas.

Every field of PretrainConfig and ProbeConfig has a value beside its default in one case or another.
Views, recipes and networks are taken from the code, as tests of their own check them.
"""

import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import simclr_core.model as model
from labreport import measure
from labreport.store import pretrain
from labreport.store.train import build_training
from simclr_core import cluster as clustering
from simclr_core import evaluate, geometry
from simclr_core.augment import VIEW_RECIPES, ViewRecipe, make_views
from simclr_core.cluster import ClusterConfig
from simclr_core.config import Own, PretrainConfig
from simclr_core.data import Dataset, Split
from simclr_core.evaluate import ProbeConfig, balanced_rows
from simclr_core.model import CifarResNet, MnistCNN
from simclr_core.optim import LARS, Muon

ROOT = Path(__file__).parent.parent


def made(channels: int) -> Dataset:
    draws = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (70, 12, 12, channels), generator=draws).to(torch.uint8)
    train, test = Split(images[:60], torch.arange(60) % 3), Split(images[60:], torch.arange(10) % 3)
    statistics = (0.2, 0.3, 0.4)[:channels], (0.5, 0.4, 0.3)[:channels]
    return Dataset("other", train, test, ("a", "b", "c"), *statistics, "made for the test")


def stream(seed: int, purpose: int, index: int = 0) -> int:
    """Purposes: 0 weights, 1 order, 2 views."""
    return int(np.random.SeedSequence([seed, purpose, index]).generate_state(1, np.uint64)[0] >> 1)


def cut(order: torch.Tensor, size: int) -> list[torch.Tensor]:
    return [order[k : k + size] for k in range(0, len(order), size)]


def optimiser(name: str, networks, lr: float, weight_decay: float, momentum: float):
    parameters = [p for network in networks for p in network.parameters()]
    if name in ("adam", "adamw"):
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
        return kind(parameters, lr=lr, weight_decay=weight_decay, foreach=False)
    kind = {"sgd": torch.optim.SGD, "lars": LARS, "muon": Muon}[name]
    return kind(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum)


# ---- pre-training -------------------------------------------------------------------------------


def nt_xent(z_i, z_j, tau: float):
    """Algorithm 1, in its numbering: rows 2k - 1 and 2k are image k's."""
    z = torch.stack([z_i, z_j], 1).flatten(0, 1)
    s = torch.stack([torch.stack([a @ b / (a.norm() * b.norm()) for b in z]) for a in z])

    def ell(i: int, j: int):
        others = [s[i, k] / tau for k in range(len(z)) if k != i]
        return -s[i, j] / tau + torch.stack(others).exp().sum().log()

    return sum(ell(2 * k, 2 * k + 1) + ell(2 * k + 1, 2 * k) for k in range(len(z_i))) / len(z)


def rate(c: PretrainConfig, step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return c.lr * (step + 1) / warmup
    if c.schedule == "constant":
        return c.lr
    return c.lr * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


HEADS = {
    "mlp_bn": lambda h, c: nn.Sequential(nn.Linear(h, c.head_hidden, bias=False),
                                         nn.BatchNorm1d(c.head_hidden), nn.ReLU(),
                                         nn.Linear(c.head_hidden, c.head_dim)),
    "mlp_no_bn": lambda h, c: nn.Sequential(nn.Linear(h, c.head_hidden), nn.ReLU(),
                                            nn.Linear(c.head_hidden, c.head_dim)),
    "linear": lambda h, c: nn.Linear(h, c.head_dim, bias=False),
    "none": lambda h, c: nn.Identity(),
}  # fmt: skip


def oracle(c: PretrainConfig, data: Dataset, encoder, recipe: ViewRecipe, kind=torch.float64):
    """encoder: builds it. Returns the networks and each epoch's loss."""
    torch.manual_seed(stream(c.seed, 0))
    encoder = encoder(c).train().to(kind, memory_format=torch.channels_last)
    torch.manual_seed(stream(c.seed, 0, 1))
    head = HEADS[c.head](encoder.h_dim, c).train().to(kind)
    images = data.train.images[slice(*c.images)]
    optimizer = optimiser(c.optimizer, (encoder, head), c.lr, c.weight_decay, c.momentum)
    a_epoch = math.ceil(len(images) / c.batch_size)
    losses, step = [], 0
    for epoch in range(1, c.epochs + 1):
        draws = torch.Generator().manual_seed(stream(c.seed, 1, epoch))
        total = 0.0
        for rows in cut(torch.randperm(len(images), generator=draws), c.batch_size):
            draws = torch.Generator().manual_seed(stream(c.seed, 2, step))
            x = [v.to(kind) for v in make_views(images[rows], recipe, data.mean, data.std, draws)]
            for group in optimizer.param_groups:
                group["lr"] = rate(c, step, c.epochs * a_epoch, round(c.warmup_epochs * a_epoch))
            with torch.autocast("cpu", torch.bfloat16, enabled=c.precision == "bf16"):
                if c.batch_norm == "joint":
                    z_i, z_j = head(encoder(torch.cat(x))).split(len(rows))
                else:
                    z_i, z_j = (head(encoder(view)) for view in x)
            loss = nt_xent(z_i.to(kind), z_j.to(kind), c.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
            step += 1
        losses.append(total / len(images))
    return encoder, head, losses


def resnet(c: PretrainConfig):
    return CifarResNet(c.encoder, 3, 12, c.width, c.stem)


def imagenet(c: PretrainConfig):
    encoder = CifarResNet(c.encoder, 3, 12, c.width, c.stem)
    stand_in(encoder, c.encoder)
    return encoder


def stand_in(encoder: nn.Module, name: str) -> None:
    """In the place of torchvision's weights, which are a download."""
    nn.init.constant_(encoder.layer1[0].conv1.weight, 0.01)


CNN = PretrainConfig(
    "other",
    (5, 52),
    augmentation="r2_two_views",
    batch_size=12,
    epochs=2,
    optimizer="sgd",
    lr=0.07,
    momentum=0.6,
    seed=3,
)  # 47 images: 12, 12, 12, 11
RESNET = replace(CNN, encoder="resnet18", width=0.0625, head="mlp_bn", head_hidden=9, head_dim=7)
JITTERED = replace(VIEW_RECIPES["color"], jitter=(0.24, 0.24, 0.24, 0.06))
CASES = {  # name: configuration, the encoder, what views there are
    "cosine": (replace(CNN, schedule="cosine", warmup_epochs=0.6, weight_decay=0.02,
                       temperature=0.3, head_hidden=20, head_dim=11),
               lambda c: MnistCNN(1, 12), VIEW_RECIPES["r2_two_views"]),
    "colour": (replace(RESNET, augmentation="color", strength=0.3, stem="imagenet"),
               resnet, JITTERED),
    "per view": (replace(RESNET, batch_norm="per_view", augmentation="basic", temperature=0.2,
                         warmup_epochs=1.0), resnet, VIEW_RECIPES["basic"]),
    "imagenet": (replace(RESNET, width=1.0, init="imagenet", images=(5, 13), batch_size=4,
                         epochs=1, augmentation="basic"), imagenet, VIEW_RECIPES["basic"]),
    "adam": (replace(CNN, optimizer="adam", lr=0.002, weight_decay=0.03, head="linear", head_dim=9),
             lambda c: MnistCNN(1, 12), VIEW_RECIPES["r2_two_views"]),
    "adamw": (replace(CNN, optimizer="adamw", lr=0.002, weight_decay=0.3, head="none"),
              lambda c: MnistCNN(1, 12), VIEW_RECIPES["r2_two_views"]),
    "lars": (replace(CNN, optimizer="lars", lr=3.0, weight_decay=0.03),
             lambda c: MnistCNN(1, 12), VIEW_RECIPES["r2_two_views"]),
    "muon": (replace(CNN, optimizer="muon", lr=0.02, weight_decay=0.3),
             lambda c: MnistCNN(1, 12), VIEW_RECIPES["r2_two_views"]),
    "cached": (replace(CNN, micro_batch=5),
               lambda c: MnistCNN(1, 12), VIEW_RECIPES["r2_two_views"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pre_training_is_that_of_the_oracle(name, monkeypatch):
    monkeypatch.setattr(model, "_load_imagenet_weights", stand_in)
    config, encoder, recipe = CASES[name]
    data = made(1 if config.encoder == "mnist_cnn" else 3)
    expected = oracle(config, data, encoder, recipe)
    compare(config, data, expected)


def compare(config: PretrainConfig, data: Dataset, expected, kind=torch.float64, **near) -> None:
    training = build_training(config, data)
    training.encoder.to(kind), training.head.to(kind)
    views = training.views
    training.views = lambda *a, **k: tuple(x.to(kind) for x in views(*a, **k))
    losses = [row["loss"] for row in training if row]
    near = near or {"atol": 1e-10, "rtol": 1e-8}
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected[2]), **near)
    for ours, theirs in zip((training.encoder, training.head), expected[:2], strict=True):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), **near)


def test_in_bf16_it_is_the_oracles_too():
    config = replace(CNN, precision="bf16", lr=0.01)
    expected = oracle(
        config, made(1), lambda c: MnistCNN(1, 12), VIEW_RECIPES["r2_two_views"], torch.float32
    )
    compare(config, made(1), expected, torch.float32, atol=1e-5, rtol=1e-4)
    with pytest.raises(AssertionError):
        compare(
            replace(config, precision="fp32"),
            made(1),
            expected,
            torch.float32,
            atol=1e-5,
            rtol=1e-4,
        )


class OwnEncoder(nn.Sequential):
    h_dim = 6

    def __init__(self, channels: int, side: int):
        super().__init__(nn.Flatten(), nn.Linear(channels * side**2, 6), nn.Tanh())


def test_own_parts_take_the_place_of_the_named_ones():
    recipe = ViewRecipe(flip_p=0.5)
    own = Own(
        OwnEncoder, lambda h: nn.Linear(h, 5, bias=False), recipe, lambda a, b: nt_xent(a, b, 0.9)
    )
    config = replace(CNN, head="linear", head_dim=5, temperature=0.9)
    expected = oracle(config, made(1), lambda c: OwnEncoder(1, 12), recipe)
    config = replace(config, temperature=0.1, head="mlp_bn", augmentation="basic", own=own)
    compare(config, made(1), expected)


def test_an_untrained_run_holds_the_first_weights_of_its_seed(tmp_path):
    config = replace(RESNET, objective="none", stem="imagenet", seed=8)
    torch.manual_seed(stream(8, 0))
    found = pretrain(config, made(3), tmp_path).load_encoder().state_dict()
    torch.testing.assert_close(found, resnet(config).state_dict(), atol=0, rtol=0)


def test_every_field_of_the_pre_training_has_another_value_than_its_default_somewhere():
    seen = [config for config, *_ in CASES.values()]
    elsewhere = {"objective", "precision", "own"}  # in tests of their own, above
    device = {"device"}  # cuda: test_train.py
    for field in fields(PretrainConfig):
        values = {getattr(config, field.name) for config in seen} - {field.default}
        assert values or field.name in elsewhere | device, field.name


# ---- probe and fine-tuning ----------------------------------------------------------------------


def classifier(width: int, c: ProbeConfig) -> nn.Sequential:
    torch.manual_seed(stream(c.seed, 0))
    if not c.hidden:
        return nn.Sequential(nn.Linear(width, 3))
    layers = nn.Linear(width, c.hidden), nn.Linear(c.hidden, 3)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def fit(network, inputs, labels, scored, scored_labels, c: ProbeConfig) -> dict:
    """inputs: of rows and a generator; scored: what the network is scored on, after each epoch."""
    optimizer = optimiser(c.optimizer, [network], c.lr, c.weight_decay, 0.9)
    losses, accuracies, step = [], [], 0
    steps = c.epochs * math.ceil(len(labels) / c.batch_size)
    for epoch in range(1, c.epochs + 1):
        network.train()
        order, draws = (torch.Generator().manual_seed(stream(c.seed, k, epoch)) for k in (1, 2))
        total = 0.0
        for rows in cut(torch.randperm(len(labels), generator=order), c.batch_size):
            cosine = (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.param_groups[0]["lr"] = c.lr * (cosine if c.schedule == "cosine" else 1)
            chances = network(inputs(rows, draws)).log_softmax(1)
            loss = -chances[torch.arange(len(rows)), labels[rows]].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
            step += 1
        losses.append(total / len(labels))
        network.eval()
        with torch.no_grad():
            found = network(scored).argmax(1)
        accuracies.append((found == scored_labels).float().mean().item())
    return {"losses": losses, "accuracies": accuracies}


def assert_near(result: dict, expected: dict, epochs: int) -> None:
    assert result["losses"] == pytest.approx(expected["losses"], abs=2e-5)
    assert result["accuracies"] == pytest.approx(expected["accuracies"][-epochs:])
    assert result["accuracy"] == pytest.approx(expected["accuracies"][-1])


def plain(images: torch.Tensor, data: Dataset) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    return (images.permute(0, 3, 1, 2) / 255 - mean) / std


PROBE = ProbeConfig((2, 44), epochs=4, batch_size=9, lr=0.02, seed=6)
PROBES = {
    "hidden": replace(PROBE, hidden=13, schedule="cosine", standardise=True, weight_decay=0.01,
                      scored_on=(45, 58)),
    "few labels": replace(PROBE, per_class=7, draw=2, epoch=1, optimizer="sgd"),
    "on z": replace(PROBE, on="z", optimizer="adamw", weight_decay=0.5),
}  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    config = replace(RESNET, augmentation="basic", epochs=2)
    return pretrain(config, made(3), tmp_path_factory.mktemp("runs"), keep_epochs=(1,))


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_that_of_the_oracle(name, stored):
    c, data = PROBES[name], made(3)
    network = stored.load_encoder(c.epoch)
    if c.on == "z":
        network = nn.Sequential(network, stored.load_projection_head())
    with torch.no_grad():
        x = [network(plain(split.images, data)) for split in (data.train, data.test)]
    fitted, labels = x[0][2:44], data.train.labels[2:44]
    scored, answers = x[1], data.test.labels
    if c.scored_on:
        scored, answers = x[0][45:58], data.train.labels[45:58]
    if c.per_class:
        rows = balanced_rows(labels, 7, 2)
        fitted, labels = fitted[rows], labels[rows]
    if c.standardise:
        mean, std = fitted.mean(0), fitted.std(0)
        std[std < 1e-6] = 1e-6  # a dead feature
        fitted, scored = (fitted - mean) / std, (scored - mean) / std
    network = classifier(fitted.shape[1], c)
    expected = fit(network, lambda rows, _: fitted[rows], labels, scored, answers, c)
    assert_near(measure.fit_probe(stored, data, c), expected, c.epochs)


TUNED = {
    "fine-tuning": replace(PROBE, augmentation="color", epoch=1, lr=0.002, hidden=5, per_class=8),
    "moving_bn": replace(PROBE, moving_bn=True, epochs=2, weight_decay=0.1),
    "plain": replace(PROBE, optimizer="sgd", schedule="cosine", scored_on=(45, 58)),
}


@pytest.mark.parametrize("name", TUNED)
def test_fine_tuning_is_that_of_the_oracle(name, stored):
    c, data = TUNED[name], made(3)
    encoder = stored.load_encoder(c.epoch).to(memory_format=torch.channels_last)
    encoder.requires_grad_(not c.moving_bn)
    images, labels = data.train.images[2:44], data.train.labels[2:44]
    scored, answers = data.test.images, data.test.labels
    if c.scored_on:
        scored, answers = data.train.images[45:58], data.train.labels[45:58]
    if c.per_class:
        rows = balanced_rows(labels, 8, 0)
        images, labels = images[rows], labels[rows]
    recipe = replace(VIEW_RECIPES["color"], jitter=(0.4, 0.4, 0.4, 0.1))  # strength 0.5

    def inputs(rows, draws):
        if not c.augmentation:
            return plain(images[rows], data)
        whole = replace(recipe, first_view="identity")  # one view: only the second is drawn
        return make_views(images[rows], whole, data.mean, data.std, draws)[1]

    network = nn.Sequential(encoder, *classifier(encoder.h_dim, c))
    expected = fit(network, inputs, labels, plain(scored, data), answers, c)
    tune = measure.fit_probe if c.moving_bn else measure.fine_tune
    assert_near(tune(stored, data, c), expected, 1)


def test_the_other_evaluations_get_the_runs_features_range_and_seed(stored):
    data = made(3)
    with torch.no_grad():
        first, last = stored.load_encoder(1), stored.load_encoder()
        h, h_1 = (network(plain(data.train.images, data)) for network in (last, first))
        h_test = last(plain(data.test.images, data))
        draws = torch.Generator().manual_seed(stream(0, 2))
        how = VIEW_RECIPES["basic"], data.mean, data.std, draws
        u, v = (last(x) for x in make_views(data.test.images[:9], *how))
    labels, answers = data.train.labels, data.test.labels
    known, scored = (h_1[2:44], labels[2:44]), (h_1[45:58], labels[45:58])
    found = measure.knn(stored, data, (2, 44), 3, scored_on=(45, 58), epoch=1)
    assert found["accuracy"] == evaluate.knn_accuracy(known, scored, 3)

    c = ClusterConfig("kmeans", (2, 44), restarts=4)
    given = (h[2:44].numpy(), labels[2:44].numpy()), (h_test.numpy(), answers.numpy())
    expected, other = (clustering.cluster(*given, 3, c, seed)["nmi"] for seed in (3, 0))
    assert measure.cluster(stored, data, c)["nmi"] == pytest.approx(expected)
    assert expected != pytest.approx(other)

    expected = geometry.measure_geometry(u, v, h_test[:9], answers[:9], 3)
    found = measure.measure_geometry(stored, data, 9)
    for name in ("alignment", "uniformity", "effective_rank", "within", "between"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


def test_fine_tuning_is_in_the_runs_precision(tmp_path):
    data, c = made(3), replace(TUNED["plain"], epochs=1)
    config = replace(RESNET, objective="none", precision="bf16")
    run = pretrain(config, data, tmp_path)
    parts = data.train.part(2, 44), data.train.part(45, 58)
    fitted, scored = ((part.images, part.labels) for part in parts)

    def losses(precision: str) -> list[float]:
        encoder = run.load_encoder().to(memory_format=torch.channels_last)
        given = encoder, fitted, scored, 3, c, data.mean, data.std
        return evaluate.fine_tune(*given, precision)["losses"]

    assert measure.fine_tune(run, data, c)["losses"] == losses("bf16") != losses("fp32")


def test_pictures_of_views_are_of_the_runs_first_images(stored):
    pictures = measure.picture_views(stored, made(3), 2, 1)["images"]
    assert (pictures == made(3).train.images[5:7].numpy()).all()


def test_every_field_of_the_probe_has_another_value_than_its_default_somewhere():
    for field in fields(ProbeConfig):
        seen = {getattr(c, field.name) for c in [*PROBES.values(), *TUNED.values()]}
        assert seen - {field.default}, field.name


# ---- in a script of one's own -------------------------------------------------------------------


def test_ten_lines_train_an_encoder_without_the_report(tmp_path):
    text = (ROOT / "docs/ten_lines.py").read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 10
    assert "labreport" not in text
    (tmp_path / "mine.py").write_text(text)
    words = [sys.executable, "-W", "error", "mine.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    *epochs, accuracy = done.stdout.split("\n")[:-1]
    losses = [float(line.split()[1]) for line in epochs]
    assert losses[-1] < losses[0] - 0.3 and float(accuracy) > 0.8
