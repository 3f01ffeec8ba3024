"""The benchmarks run at a tiny size, and what they compare is the same mathematics."""

import argparse
import importlib
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from labreport.store.provenance import cpu_name
from simclr_core.augment import normalise
from simclr_core.data import load_dataset

ROOT = Path(__file__).parents[1]


def run(*words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "SIMCLR_DATA"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def benchmark(monkeypatch):
    """Imports one of them."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def scaling(benchmark):
    return benchmark("scaling")


@pytest.fixture
def mnist_study(benchmark):
    return benchmark("mnist_study")


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
    ours = config.training(data)
    views = ours.views(ours.images[:64], generator=torch.Generator().manual_seed(0))
    x_i, x_j = (x.to(dtype) for x in views)
    networks = [nn.Sequential(form.encoder, form.head).to(dtype) for form in (slow, ours)]

    slow_loss, our_loss = slow.loss(x_i, x_j), ours.loss(*ours.project(x_i, x_j))
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
    assert flop == pytest.approx(2 * 4.09e9, rel=0.02)  # torchvision states 4.09 GMAC
    assert norms == 54  # 53 and the head's
    assert parameters == 25_557_032 - 2_049_000 + 2048 * 2048 + 2 * 2048 + 2048 * 128 + 128


def test_the_compiled_step_is_measured_beside_the_plain_one(benchmark, monkeypatch, capsys):
    """torch.compile itself takes a minute here; what it is given and what is printed does not."""
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda network, mode: compiled.append((type(network).__name__, mode)) or network
    )

    benchmark("step").main(["--quick", "--device", "cpu", "--compile", "reduce-overhead"])

    assert compiled == [("CifarResNet", "reduce-overhead"), ("Sequential", "reduce-overhead")]
    printed = capsys.readouterr().out
    assert re.search(r"whole step, compiled \(reduce-overhead; \d+ s to compile\) +[\d.]+", printed)
    assert re.search(r"^time of the step, of the one compiled \(reduce-overhead\): [\d.]+$", printed, re.M)


def test_every_idea_changes_the_published_recipe_where_it_says_and_costs_as_much(benchmark):
    ideas, data = benchmark("ideas"), load_dataset("shapes")
    options = argparse.Namespace(images=128, width=1 / 16, epochs=3, batch=64)
    published = ideas.configure("published", 5, data, options)
    assert (published.lr, published.batch_size, published.seed) == (0.06 * 64 / 256, 64, 5)
    assert published.views().grayscale_p == 0.1 and published.views().crop_scale == (0.2, 1.0)
    for name, idea in ideas.IDEAS.items():
        config = ideas.configure(name, 5, data, options)
        differing = {f.name for f in fields(config) if getattr(config, f.name) != getattr(published, f.name)}
        assert differing == idea.keys() | ({"lr"} if "batch_size" in idea else set()), name
        assert config.epochs * (config.images[1] - config.images[0]) == 3 * 128
    grey = ideas.configure("grayscale 0.2", 5, data, options).views()
    assert grey == replace(published.views(), grayscale_p=0.2)
