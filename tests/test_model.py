import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

import simclr_core.model
from labreport.store import pretrain
from simclr_core.config import PretrainConfig
from simclr_core.data import Dataset, Split
from simclr_core.errors import UserError
from simclr_core.model import (
    ENCODERS,
    HEADS,
    build_encoder,
    build_projection_head,
    count_parameters,
)


@pytest.mark.parametrize(
    ("name", "channels", "side", "h_dim", "parameters"),
    [
        ("pixels", 1, 28, 784, 0),
        ("mnist_cnn", 1, 28, 128, 420_352),  # 9*32+32 + 9*32*64+64 + 3136*128+128
        ("resnet18", 3, 32, 512, 11_168_832),  # torchvision's 11,689,512 - fc 513,000 - 7x7 9,408 + 3x3 1,728
        ("resnet34", 3, 32, 512, 21_276_992),
        ("resnet50", 3, 32, 2048, 23_500_352),
        # patches 3*16*192+192, class token 192, places 65*192, 12 layers of 12*192*192+13*192, last norm 2*192
        ("vit", 3, 32, 192, 5_360_832),
    ],
)
def test_encoder_has_the_stated_width_and_parameter_count(name, channels, side, h_dim, parameters):
    encoder = build_encoder(name, channels, side).eval()
    assert encoder(torch.zeros(2, channels, side, side)).shape == (2, h_dim) == (2, encoder.h_dim)
    assert count_parameters(encoder) == parameters


def test_cifar_stem_keeps_the_image_size_up_to_the_first_stage():
    encoder = build_encoder("resnet18", 3, 32)
    assert encoder.relu(encoder.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)
    wide = build_encoder("resnet18", 3, 32, stem="imagenet")
    assert wide.conv1(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 16, 16)
    assert isinstance(wide.maxpool, torch.nn.Identity)


def test_width_scales_every_stage():
    encoder = build_encoder("resnet18", 3, 32, width=0.25)
    assert encoder.h_dim == 128
    assert [getattr(encoder, f"layer{k}")[-1].conv2.out_channels for k in (1, 2, 3, 4)] == [16, 32, 64, 128]


def test_vit_takes_grey_images_narrower_heads_and_whole_patches_only():
    assert build_encoder("vit", 1, 28, width=0.25)(torch.zeros(2, 1, 28, 28)).shape == (2, 48)
    with pytest.raises(UserError, match="side is a multiple of 4, not 30"):
        build_encoder("vit", 3, 30)


def test_vit_sees_where_a_patch_lies():
    """Without its embedding of places a transformer could not tell an image from the same one turned over."""
    encoder = build_encoder("vit", 3, 32, width=0.25).eval()
    x = torch.rand(1, 3, 32, 32)
    assert not torch.allclose(encoder(x), encoder(x.roll(4, dims=3)), atol=1e-3)


def test_mnist_encoder_equals_r2s_order_relu_before_pool():
    encoder, x = build_encoder("mnist_cnn", 1, 28), torch.randn(4, 1, 28, 28)
    pool = torch.nn.functional.max_pool2d
    step = pool(encoder.conv1(x).relu(), 2)
    step = pool(encoder.conv2(step).relu(), 2)
    torch.testing.assert_close(encoder(x), encoder.fc(step.flatten(1)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "z_dim", "parameters"),
    [
        ("mlp_bn", 128, 512 * 512 + 2 * 512 + 512 * 128 + 128),
        ("mlp_no_bn", 128, 512 * 512 + 512 + 512 * 128 + 128),
        ("linear", 128, 512 * 128),
        ("none", 512, 0),
    ],
)
def test_projection_heads_are_pinned_by_their_parameter_counts(name, z_dim, parameters):
    head = build_projection_head(name, 512, 512, 128)
    assert head(torch.zeros(3, 512)).shape == (3, z_dim)
    assert count_parameters(head) == parameters


def test_one_entry_adds_an_encoder_or_a_head(monkeypatch):
    monkeypatch.setitem(ENCODERS, "mine", lambda *given: given)
    monkeypatch.setitem(HEADS, "mine", lambda h_dim, hidden, z_dim: (h_dim, hidden, z_dim))
    assert build_encoder("mine", 3, 32, 0.5, "imagenet") == (3, 32, 0.5, "imagenet")
    assert build_projection_head("mine", 4, 5, 6) == (4, 5, 6)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="unknown encoder 'resnet19'"):
        build_encoder("resnet19", 3, 32)
    with pytest.raises(UserError, match="unknown projection head 'mlp'"):
        build_projection_head("mlp", 8, 8, 8)


def test_imagenet_weights_are_loaded_but_for_conv1(tmp_path, monkeypatch):
    """A state dict made here stands in for the download; everything but conv1 must come from it."""
    from torchvision.models import resnet18
    from torchvision.models._api import WeightsEnum

    torch.manual_seed(3)
    stored = resnet18().state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: stored)
    encoder = build_encoder("resnet18", 3, 32, init="imagenet")
    assert encoder.conv1.weight.shape == (64, 3, 3, 3)
    torch.testing.assert_close(encoder.layer4[1].conv2.weight, stored["layer4.1.conv2.weight"])
    with pytest.raises(UserError, match="width 1 only"):
        build_encoder("resnet18", 3, 32, width=0.5, init="imagenet")


def test_imagenet_weights_that_cannot_be_had_give_one_line_with_the_place_to_put_them(monkeypatch):
    from torchvision.models._api import WeightsEnum

    def refuse(self, **_):
        raise OSError("no network")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    with pytest.raises(UserError, match=r"resnet18-f37072fd.pth .*checkpoints"):
        build_encoder("resnet18", 3, 32, init="imagenet")


def documented(block: str) -> str:
    text = (Path(__file__).parents[1] / "docs/encoder.md").read_text()
    (code,) = re.findall(rf"<!-- {block}:start -->\n```python\n(.*?)```\n<!-- {block}:end -->", text, re.S)
    return code


@pytest.mark.parametrize(
    ("block", "width"), [("three-lines", 1.0), ("own-lines", 0.25)], ids=["torchvision's ResNet", "our own"]
)
def test_the_documented_lines_load_an_exported_encoder(block, width, tmp_path, monkeypatch):
    """The code in docs/encoder.md is executed as it stands there, in a folder that holds the exported file."""
    colour = Split(torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8), torch.arange(8) % 2)
    data = Dataset("made", colour, colour, ("a", "b"), (0.4,) * 3, (0.2,) * 3, "made for the test")
    config = PretrainConfig("made", (0, 8), encoder="resnet18", width=width, objective="none")
    run = pretrain(config, data, tmp_path / "runs")
    run.export_encoder(tmp_path / "encoder.safetensors")
    monkeypatch.chdir(tmp_path)
    assert len(documented(block).splitlines()) == 3
    names = {"torchvision": torchvision, "nn": torch.nn, "safetensors": safetensors, "simclr_core": simclr_core}
    exec(documented(block), names)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(names["encoder"].eval()(x), run.load_encoder()(x), rtol=0, atol=0)
    with safetensors.safe_open("encoder.safetensors", "pt") as file:
        about = {key: json.loads(value) for key, value in file.metadata().items()}
    assert about["mean"] == [0.4] * 3 and about["width"] == width and about["run"] == run.name


@pytest.mark.parametrize(("name", "width"), [("mnist_cnn", 1), ("pixels", 1), ("vit", 1), ("resnet18", 0.5)])
def test_imagenet_weights_for_what_has_none_are_refused(name, width):
    with pytest.raises(UserError, match=f"ImageNet weights fit a ResNet of width 1 only, not {name} at {width}"):
        build_encoder(name, 3, 32, width=width, init="imagenet")


def test_a_width_without_channels_is_refused():
    with pytest.raises(UserError, match=r"width 0\.005 leaves a ResNet no channel"):
        build_encoder("resnet18", 3, 32, width=0.005)
