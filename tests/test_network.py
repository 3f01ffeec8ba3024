"""Nothing but the download of data, and of ImageNet weights when asked for, connects; what comes is checked."""

import hashlib
import socket
import urllib.request
from pathlib import Path

import pytest
import torch
from sample_report import FRONT, sample_sections
from torchvision.models import resnet18

from labreport.measure import fit_probe, knn
from labreport.render.exporters import render
from labreport.run.stand_ins import settle_data
from labreport.store import pretrain
from simclr_core.config import PretrainConfig
from simclr_core.data import load_dataset, mnist
from simclr_core.errors import DataNotFound, UserError
from simclr_core.evaluate import ProbeConfig
from simclr_core.model import build_encoder


@pytest.fixture
def asked(monkeypatch, tmp_path) -> list:
    """Every connection that is tried and every host that is looked up, none of which succeeds."""
    tried: list = []

    def refuse(*arguments, **_):
        tried.append(next(argument for argument in arguments if not isinstance(argument, socket.socket)))
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setenv("NO_PROXY", "*")  # or the first host asked for is a proxy's
    for name in ("SIMCLR_DATA", "SIMCLR_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tried


def test_the_fixture_sees_whoever_connects(asked):
    with pytest.raises(OSError, match="no network"):
        urllib.request.urlopen("http://example.org/", timeout=1)
    with socket.socket() as own, pytest.raises(OSError, match="no network"):
        own.connect(("127.0.0.1", 9))
    assert asked == [("example.org", 80), ("127.0.0.1", 9)]


def test_data_without_download_training_and_evaluation_ask_for_nothing(asked):
    digits, _ = load_dataset("digits"), load_dataset("shapes")
    run = pretrain(PretrainConfig("digits", (0, 64), batch_size=32, epochs=1), digits, "runs")
    fit_probe(run, digits, ProbeConfig(labels=(0, 64), epochs=1))
    knn(run, digits, (0, 64), k=3)
    assert asked == []


def test_rendering_a_report_asks_for_nothing(asked, tmp_path):
    render(sample_sections(tmp_path), FRONT, tmp_path / "output")
    assert asked == []


HOSTS = {
    "mnist": {"ossci-datasets.s3.amazonaws.com", "yann.lecun.com"},
    "cifar10": {"www.cs.toronto.edu"},
}


@pytest.mark.parametrize("name", HOSTS)
def test_missing_data_are_the_only_reason_to_connect_and_only_to_their_own_hosts(name, asked, tmp_path):
    defaults = {"01": {"dataset": name}, "02": {"dataset": "digits"}}
    settled = settle_data({"01": {}, "02": {}}, defaults, {name: "shapes"}, False, tmp_path)
    assert settled.parameters["01"]["dataset"] == "shapes"
    assert {host for host, _ in asked} <= HOSTS[name] and asked
    asked.clear()
    with pytest.raises(DataNotFound):
        load_dataset(name, download=False)
    assert asked == []


def test_downloads_are_asked_for_with_their_md5(asked, monkeypatch):
    """What torchvision is told to expect: the archives' MD5 of every file."""
    from torchvision.datasets import cifar, mnist

    expected = {}

    def record(url, *_, filename=None, md5=None, **__):
        expected[filename] = md5
        raise RuntimeError("stopped")

    for module in (cifar, mnist):
        monkeypatch.setattr(module, "download_and_extract_archive", record)
    monkeypatch.setattr(mnist.MNIST, "mirrors", ["https://example.org/"])
    for name in HOSTS:
        with pytest.raises(DataNotFound, match="the download failed"):
            load_dataset(name)
    assert expected == {
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    }


def test_a_download_of_something_else_is_refused_by_its_md5(monkeypatch, tmp_path):
    """torchvision's own check of what it fetched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIMCLR_DATA", raising=False)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve",
                        lambda url, path, **_: Path(path).write_bytes(b"something else"))  # fmt: skip
    for name in HOSTS:
        with pytest.raises(DataNotFound, match="the download failed"):
            load_dataset(name)


def test_what_a_download_unpacked_to_is_checked_again(monkeypatch, tmp_path):
    """Our own check on top: the MD5 of MNIST's unpacked files, on every load."""

    def fetch(self, root, **_):
        folder = Path(root, "MNIST/raw")
        folder.mkdir(parents=True)
        for name in mnist.MD5:
            (folder / name).write_bytes(bytes(99))

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIMCLR_DATA", raising=False)
    monkeypatch.setattr("torchvision.datasets.MNIST.__init__", fetch)
    with pytest.raises(UserError, match="is damaged: its MD5"):
        load_dataset("mnist")


PICKLE = b"cposix\nsystem\n(S'touch executed'\ntR."


def test_pickles_in_torchvisions_layouts_are_refused_and_not_executed(asked):
    from torchvision.datasets import CIFAR10

    batches, processed = Path("data/cifar-10-batches-py"), Path("data/MNIST/processed")
    for folder in (batches, processed):
        folder.mkdir(parents=True)
    for name, _ in CIFAR10.train_list + CIFAR10.test_list + [("batches.meta", "")]:
        (batches / name).write_bytes(PICKLE)
    for name in ("training.pt", "test.pt"):  # torchvision's layout of years ago, which it still loads
        (processed / name).write_bytes(PICKLE)
    with pytest.raises(UserError, match=r"cifar-10-batches-py is damaged or incomplete \(MD5\)"):
        load_dataset("cifar10")
    with pytest.raises(UserError) as caught:
        load_dataset("mnist")
    assert "\n" not in str(caught.value) and not Path("executed").exists()


# ---- ImageNet weights -------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """The folder in which torch keeps what it downloaded."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def put_weights(folder: Path, monkeypatch) -> Path:
    """Weights made here, under the name that torchvision would give them."""
    from torchvision.models import ResNet18_Weights

    torch.save(resnet18().state_dict(), folder / "weights")
    sha256 = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()
    path = (folder / "weights").rename(folder / f"resnet18-{sha256[:8]}.pth")
    changed = ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(type(changed), "__setattr__", object.__setattr__)
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1, "_value_", type(changed)(
        url=f"https://download.pytorch.org/models/{path.name}", transforms=changed.transforms, meta=changed.meta
    ))  # fmt: skip
    return path


def test_weights_that_lie_in_the_cache_are_taken_without_a_network(hub, asked, monkeypatch):
    put_weights(hub, monkeypatch)
    assert build_encoder("resnet18", 3, 32, init="imagenet").h_dim == 512
    assert asked == []


def test_weights_in_the_cache_that_are_not_what_their_name_says_are_refused_before_loading(hub, asked, monkeypatch):
    path = put_weights(hub, monkeypatch)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError, match=r"resnet18-\w{8}.pth is damaged or not torchvision's") as caught:
        build_encoder("resnet18", 3, 32, init="imagenet")
    assert "\n" not in str(caught.value) and asked == []


def test_weights_are_loaded_as_tensors_only(hub, asked, monkeypatch):
    """Should a file with the right name hold a pickle, nothing of it is executed."""
    put_weights(hub, monkeypatch)
    given = {}
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **options: given.update(options) or load(*a, **options))
    build_encoder("resnet18", 3, 32, init="imagenet")
    assert given["weights_only"] is True


def test_missing_weights_are_asked_for_at_torchvisions_host_and_checked(hub, asked):
    with pytest.raises(UserError, match="ImageNet weights for resnet18 cannot be downloaded"):
        build_encoder("resnet18", 3, 32, init="imagenet")
    assert {host for host, _ in asked} == {"download.pytorch.org"}


def test_a_download_of_other_weights_is_refused_by_its_sha256(hub, asked, monkeypatch):
    class Answer:
        headers = {"Content-Length": "4"}

        def __init__(self, *_, **__):
            self.left = [b"evil", b""]

        def read(self, _):
            return self.left.pop(0)

        def info(self):
            return self

        def get_all(self, _):
            return ["4"]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def close(self):
            pass

    monkeypatch.setattr("torch.hub.urlopen", Answer)
    with pytest.raises(UserError, match="invalid hash value"):
        build_encoder("resnet18", 3, 32, init="imagenet")
    assert not list(hub.glob("*.pth"))


def test_jupyterlab_is_started_without_its_news_and_its_search_for_a_newer_version(monkeypatch, tmp_path):
    from jupyterlab.labapp import LabApp
    from toy_project import make_project

    from labreport.project import Project
    from labreport.run.runner import Job
    from labreport.tools import lab

    commands: list = []
    monkeypatch.setattr(lab.subprocess, "call", lambda command, **_: commands.append(command) or 0)
    project = Project(make_project(tmp_path))
    assert lab.open_lab(Job(project, {"01_first": {}}, tmp_path / "report", tmp_path / "runs"), "tiny", []) == 0
    app = LabApp()
    app.parse_command_line([word for word in commands[0] if word.startswith("--LabApp.")])
    assert app.news_url is None and app.check_for_updates_class.__name__ == "NeverCheckForUpdate"
