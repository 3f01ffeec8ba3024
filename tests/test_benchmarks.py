"""The benchmarks run at a tiny size, and what they compare is the same mathematics."""

import importlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from simclr_core.augment import make_views, normalise
from simclr_core.data import load_dataset
from simclr_core.loss import nt_xent_loss
from simclr_core.pretrain import _Training, generator
from simclr_core.runs import Run, cpu_name

ROOT = Path(__file__).parents[1]


def run(*words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "SIMCLR_DATA"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("scaling")


@pytest.fixture
def mnist_study(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("mnist_study")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["augment", "distributed", "gradient_caching", "ideas", "mnist_study", "pool", "step", "streaming"]
)
def test_a_benchmark_prints_a_ratio_last(name):
    *_, last = run(f"benchmarks/{name}.py", "--quick").splitlines()

    assert re.fullmatch(r"[\w ,]+: \d[\d.,]*", last), last


@pytest.mark.slow
def test_results_keep_the_sections_of_other_benchmarks_and_replace_their_own(tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text(f"# Results\n\n## loss on a GPU\nkept\n\n## step on {cpu_name()}\nold\n")

    run("benchmarks/results.py", "--quick", "--only", "step", "--device", "cpu", "--output", str(path))

    text = path.read_text()
    assert "## loss on a GPU\nkept\n" in text
    assert len(re.findall("^## step on ", text, re.M)) == 1 and "old" not in text
    assert re.search(r"^\d{4}-\d\d-\d\d, commit \w+.*`python benchmarks/step.py --device cpu --quick`:$", text, re.M)
    assert re.search(r"^share of the measured matrix peak: [\d.]+\n```$", text, re.M)


@pytest.mark.slow
def test_the_race_is_cut_into_slices_and_ends_as_if_in_one(tmp_path):
    def race(store, *options):
        words = ["--quick", "--checks", "2", "--device", "cpu"]
        return run("benchmarks/record.py", *words, "--store", str(tmp_path / store), *options)

    def accuracies(printed):
        return re.findall(r"^ +[12] .*?([\d.]+)$", printed, re.M)

    whole = race("whole")
    assert len(accuracies(whole)) == 2
    assert re.fullmatch(r"last epoch's kNN accuracy, of the 90 % aimed at: [\d.]+", whole.splitlines()[-1])
    assert race("sliced", "--minutes", "0") == ""
    rest = race("sliced")
    assert "resumed after epoch 1 of 2" in rest and accuracies(rest) == accuracies(whole)
    assert "test images" in race("whole", "--final") and "held back" in whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_straightforward_mnist_form_computes_our_loss_and_gradient(mnist_study, dtype):
    data = load_dataset("digits")
    config, probe = mnist_study.study(data, 256)
    config = replace(config, precision="fp32")
    slow = mnist_study.Straightforward(config, data, 256, probe.labels, scored=10)
    ours = _Training(Run(Path("unused"), config), data, (), None)
    views = make_views(ours.images[:64], ours.recipe, ours.mean, ours.std, torch.Generator().manual_seed(0))
    x_i, x_j = (x.to(dtype) for x in views)
    networks = [nn.Sequential(form.encoder, form.head).to(dtype) for form in (slow, ours)]

    slow_loss, our_loss = slow.loss(x_i, x_j), nt_xent_loss(*ours.project(x_i, x_j), config.temperature)
    slow_loss.backward(), our_loss.backward()

    assert slow_loss.item() == pytest.approx(our_loss.item(), abs=1e-5)
    if dtype == torch.float64:  # in float32 rounding decides which of two nearly equal pixels max-pool takes
        for a, b in zip(*(network.parameters() for network in networks), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-10, rtol=1e-6)


def test_view_1_of_the_straightforward_mnist_form_is_the_image_as_we_normalise_it(mnist_study):
    data = load_dataset("digits")
    pictures = mnist_study.Pictures(data.train, mnist_study.PLAIN, mnist_study.AUGMENTED)

    x_i = torch.stack([pictures[k][0] for k in range(8)])

    torch.testing.assert_close(x_i, normalise(data.train.images[:8], data.mean, data.std), atol=1e-6, rtol=0)


def test_the_table_on_paper_is_the_scripts(scaling):
    document = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    _, _, rest = document.partition("<!-- scaling:start -->\n")
    assert rest.partition("<!-- scaling:end -->")[0].strip() == scaling.table(scaling.parse([]))


def test_twice_the_gpus_halve_the_encoders_time_and_no_exchange_gets_cheaper(scaling):
    eight, sixteen = (scaling.estimate(n, scaling.parse(["--network", "450"])) for n in (8, 16))
    assert sixteen["encoder (ms)"] == pytest.approx(eight["encoder (ms)"] / 2)
    for name in ("all-reduce of gradients (ms)", "gather of z (ms)", "BN exchanges (ms)", "loss (ms)"):
        assert sixteen[name] >= eight[name]
    flop, parameters, norms = scaling.count()
    assert (
        flop == pytest.approx(2 * 4.09e9, rel=0.02) and norms == 54
    )  # torchvision states 4.09 GMAC; 53 and the head's
    assert parameters == 25_557_032 - 2_049_000 + 2048 * 2048 + 2 * 2048 + 2048 * 128 + 128


def test_the_compiled_step_is_measured_beside_the_plain_one(monkeypatch, capsys):
    """torch.compile itself takes a minute here; what it is given and what is printed does not."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda network, mode: compiled.append((type(network).__name__, mode)) or network
    )

    importlib.import_module("step").main(["--quick", "--device", "cpu", "--compile", "reduce-overhead"])

    assert compiled == [("CifarResNet", "reduce-overhead"), ("Sequential", "reduce-overhead")]
    printed = capsys.readouterr().out
    assert re.search(r"whole step, compiled \(reduce-overhead; \d+ s to compile\) +[\d.]+", printed)
    assert re.search(r"^time of the step, of the one compiled \(reduce-overhead\): [\d.]+$", printed, re.M)


@pytest.fixture
def ideas(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("ideas")


def make_trial(ideas, idea, **changes):
    config = replace(
        ideas.PUBLISHED, dataset="shapes", images=(0, 128), width=1 / 16, epochs=1, batch_size=32, **changes
    )
    return ideas.Trial(idea, config, load_dataset("shapes"))


def test_without_an_idea_a_step_is_that_of_pretrain(ideas, tmp_path):
    trial = make_trial(ideas, ideas.Idea(), lr=0.01)
    training = _Training(Run(tmp_path, trial.config), trial.data, (), None)
    rows = torch.arange(32)
    views = trial.views(rows, 0, step=3)
    expected = make_views(trial.images[rows], training.recipe, training.mean, training.std, generator(0, "views", 3))
    assert torch.equal(views, torch.cat(expected))

    loss = trial.loss(views)
    loss.backward()
    trial.optimizer.step()

    assert loss.item() == training.step(*expected).item()
    trained = training.encoder.state_dict()
    for name, value in trial.model[0].state_dict().items():
        torch.testing.assert_close(value, trained[name])


def test_every_idea_costs_as_much_and_trains(ideas):
    cost = {}
    for name, idea in ideas.IDEAS.items():
        trial = make_trial(ideas, idea)
        trial.config = replace(trial.config, epochs=100)
        small, steps = trial.steps()
        side = trial.images.shape[1]
        cost[name] = ((steps - small) * side**2 + small * ideas.SMALL**2) / (100 * 128 / 32 * side**2)
        trial.config = replace(trial.config, epochs=1)
        before = trial.model[0].conv1.weight.clone()
        trial.train()
        assert all(value.isfinite().all() for value in trial.model.state_dict().values()), name
        assert not torch.equal(trial.model[0].conv1.weight, before), name
    assert cost == pytest.approx(dict.fromkeys(ideas.IDEAS, 1), abs=0.01)


def test_an_image_is_mirrored_in_every_other_epoch_and_its_views_not_alike(ideas, monkeypatch):
    seen = []
    monkeypatch.setattr(ideas, "apply_recipe", lambda images, recipe, parameters, *_: seen.append(parameters.flipped))
    trial = make_trial(ideas, ideas.Idea(alternating=True))
    for epoch in (0, 1, 2):
        trial.views(torch.arange(64), epoch, step=epoch)

    first, second = seen[0].chunk(2)
    assert torch.equal(first, ~second) and 16 < first.sum() < 48
    assert torch.equal(seen[1], ~seen[0]) and torch.equal(seen[2], seen[0])


def test_the_average_of_the_weights_is_what_is_scored(ideas, monkeypatch):
    trial = make_trial(ideas, ideas.Idea(ema=0.99))
    trial.config = replace(trial.config, epochs=4)
    trial.train()
    scored = []
    encode = ideas.encode
    monkeypatch.setattr(ideas, "encode", lambda encoder, *rest: scored.append(encoder) or encode(encoder, *rest))

    assert 0 <= trial.score() <= 1
    assert all(encoder is trial.average[0] for encoder in scored)
    weights = [module[0].layer1[0].conv1.weight for module in (trial.average, trial.model)]
    assert 0 < (weights[0] - weights[1]).norm() < 0.5 * weights[1].norm()
