"""10_your_images as a user has it: a folder of pictures of several sizes in, an encoder out that loads elsewhere."""

import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from labreport.results import load_results
from labreport.run.execution import Execution

ROOT = Path(__file__).parents[1]


def draw_pictures(folder: Path) -> None:
    """Three classes told apart by their colour, 12 to train and 4 to test each, no two sizes alike."""
    random = np.random.default_rng(0)
    for split, number in (("train", 12), ("test", 4)):
        for channel, name in enumerate(("red things", "green & <b>bold", "blau")):
            (folder / split / name).mkdir(parents=True)
            for k in range(number):
                pixels = random.integers(0, 90, (40 + k, 33 + 2 * k, 3), dtype=np.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels).save(folder / split / name / f"{k}.png")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "stream"])
def test_a_folder_of_pictures_becomes_an_encoder_that_torchvision_loads(kind, tmp_path):
    draw_pictures(tmp_path / "pictures")
    parameters = {"dataset": f"{kind}:{tmp_path / 'pictures'}", "images": 0, "batch_size": 8, "epochs": 1, "width": 1.0,
                  "reduced": ""}  # fmt: skip
    environment = {**os.environ, "LABREPORT_OUTPUT": str(tmp_path / "out"), "SIMCLR_RUNS": str(tmp_path / "runs"),
                   "SIMCLR_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    target = tmp_path / "out/10_your_images.ipynb"
    source = ROOT / "notebooks/10_your_images.ipynb"
    assert Execution(source, target, parameters, environment, tmp_path).run() == ""
    text = "\n".join(str(output) for cell in nbformat.read(target, 4).cells for output in cell.get("outputs", []))
    assert "36 of 36 training pictures, 12 test pictures, 3 classes" in text and "torchvision.models.resnet18()" in text
    measures = load_results(tmp_path / "out/results")["10_your_images"]["measures"]
    assert 0 <= measures["own.pretrained.linear"]["values"][0] <= 1
    encoder = torchvision.models.resnet18()
    encoder.conv1, encoder.maxpool, encoder.fc = (
        nn.Conv2d(3, 64, 3, padding=1, bias=False),
        nn.Identity(),
        nn.Identity(),
    )
    encoder.load_state_dict(load_file(tmp_path / "out/encoders/your_images.safetensors"))
