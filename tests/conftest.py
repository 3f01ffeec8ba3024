"""Shared fixtures: a seed for every test, deterministic algorithms, tiny data and a tiny run."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ.get("SIMCLR_DATA"):  # tests that change folders still find the real data
    os.environ["SIMCLR_TEST_DATA"] = os.path.abspath(os.environ["SIMCLR_DATA"])

import pytest
import torch
from dead_kernels import pytest_runtest_call  # noqa: F401 (a hook)

from labreport.store import Run, pretrain
from simclr_core.config import PretrainConfig
from simclr_core.data import Dataset, Split


@pytest.fixture(autouse=True)
def _seeded_and_deterministic(monkeypatch):
    lab = ("OUTPUT", "PROGRESS", "FROM", "KEEP")
    for name in ("SIMCLR_RUNS", *(f"LABREPORT_{word}" for word in lab)):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def tiny_data() -> Dataset:
    """120 training and 40 test images, 12 x 12 grey pixels, 4 classes: which quadrant is bright."""
    generator = torch.Generator().manual_seed(7)

    def split(n: int) -> Split:
        labels = torch.arange(n) % 4
        images = torch.randint(0, 80, (n, 12, 12, 1), generator=generator, dtype=torch.uint8)
        for k, label in enumerate(labels.tolist()):
            row, column = 6 * (label // 2), 6 * (label % 2)
            images[k, row : row + 6, column : column + 6] += 150
        return Split(images, labels)

    return Dataset("tiny", split(120), split(40), tuple("abcd"), (0.3,), (0.25,), "made for tests")


@pytest.fixture
def tiny_config() -> PretrainConfig:
    return PretrainConfig("tiny", (0, 100), augmentation="r2_two_views", batch_size=32, epochs=3)


@pytest.fixture
def run(tiny_config, tiny_data, tmp_path) -> Run:
    """A finished run, encoder-0001 kept."""
    return pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(1,))
