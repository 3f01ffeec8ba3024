"""Encoders f and projection heads g: h = f(x), z = g(h).

Shape letters: N images, C channels, S image side; H_dim width of h, D width of z.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.models import VisionTransformer, get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from simclr_core.errors import UserError
from simclr_core.pooling import max_pool_relu
from simclr_core.runs import file_sha256

RESNETS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
ENCODERS = ("pixels", "mnist_cnn", *RESNETS, "vit")
VIT_PATCH, VIT_LAYERS, VIT_HEADS = 4, 12, 3  # DeiT-Ti, 192 wide (arXiv 2012.12877); patch 4 for 32 pixels: 64 tokens
HEADS = ("mlp_bn", "mlp_no_bn", "linear", "none")


class Pixels(nn.Module):
    """h is the image itself, flattened: the baseline that has learnt nothing. h_dim = C S S."""

    def __init__(self, channels: int, image_size: int):
        super().__init__()
        self.h_dim = channels * image_size**2

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)  # (N, C S S)


class MnistCNN(nn.Module):
    """R2's MNIST encoder: two 3x3 convolutions (32 and 64 channels), each ReLU and max-pool 2; linear to 128.

    ReLU after the pool is the same function (max and ReLU commute) on a quarter of the values.
    """

    h_dim = 128

    def __init__(self, channels: int = 1, image_size: int = 28):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc = nn.Linear(64 * (image_size // 4) ** 2, self.h_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool_relu(self.conv1(x))  # (N, 32, S/2, S/2)
        x = max_pool_relu(self.conv2(x))  # (N, 64, S/4, S/4)
        return self.fc(x.flatten(1))  # (N, 128)


class CifarResNet(ResNet):
    """torchvision's ResNet for small images: no classifier, no max-pool, conv1 3x3 with stride 1 and padding 1
    (stem "cifar"; SimCLR paper, appendix B.9), or the 7x7 one with stride 2 (stem "imagenet", for comparison;
    R1 removes only the max-pool and the classifier). `width` scales every layer: 64 width channels first."""

    def __init__(self, name: str, channels: int = 3, width: float = 1.0, stem: str = "cifar"):
        block, layers = RESNETS[name]
        super().__init__(block, list(layers))
        first = self.inplanes = round(64 * width)
        if width != 1:
            self.bn1 = nn.BatchNorm2d(first)
            for k, depth in enumerate(layers):
                layer = self._make_layer(block, first * 2**k, depth, stride=1 if k == 0 else 2)
                setattr(self, f"layer{k + 1}", layer)
        kernel = {"kernel_size": 3, "padding": 1} if stem == "cifar" else {"kernel_size": 7, "stride": 2, "padding": 3}
        self.conv1 = nn.Conv2d(channels, first, bias=False, **kernel)
        self.maxpool, self.fc = nn.Identity(), nn.Identity()
        self.h_dim = first * 8 * block.expansion
        for module in self.modules():  # torchvision's own initialisation, for the layers replaced here
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class SmallViT(VisionTransformer):
    """torchvision's ViT in the shape of DeiT-Ti on patches of 4 x 4 pixels; h is the class token after the last layer.

    Each of the 3 heads is 64 width dimensions wide. It wants AdamW, warm-up and weight decay (Chen et al. 2021, arXiv
    2104.02057).
    """

    def __init__(self, channels: int, image_size: int, width: float = 1.0):
        if image_size % VIT_PATCH:
            raise UserError(f"encoder vit takes images whose side is a multiple of {VIT_PATCH}, not {image_size}")
        self.h_dim = VIT_HEADS * max(1, round(64 * width))
        super().__init__(image_size, VIT_PATCH, VIT_LAYERS, VIT_HEADS, self.h_dim, 4 * self.h_dim)
        if channels != 3:
            self.conv_proj = nn.Conv2d(channels, self.h_dim, VIT_PATCH, VIT_PATCH)
        self.heads = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        with sdpa_kernel(SDPBackend.MATH):  # torch's own for the CPU takes twice as long over a step in bf16
            return super().forward(x)


def build_encoder(
    name: str, channels: int, image_size: int, width: float = 1.0, stem: str = "cifar", init: str = "random"
) -> nn.Module:
    """An encoder with attribute h_dim; maps (N, channels, image_size, image_size) to h (N, h_dim).

    Args:
        init: "random", or "imagenet": torchvision's ImageNet weights but for conv1, which is new (R2 does so).
    Raises: UserError for an unknown name, or when the ImageNet weights cannot be had.
    """
    if init == "imagenet" and (name not in RESNETS or width != 1):
        raise UserError(f"ImageNet weights fit a ResNet of width 1 only, not {name} at {width:g}; set init to 'random'")
    if name == "pixels":
        return Pixels(channels, image_size)
    if name == "mnist_cnn":
        return MnistCNN(channels, image_size)
    if name == "vit":
        return SmallViT(channels, image_size, width)
    if name not in RESNETS:
        raise UserError(f"unknown encoder {name!r}; known are {', '.join(ENCODERS)}")
    if round(64 * width) < 1:
        raise UserError(f"width {width:g} leaves a ResNet no channel; it must be at least 1 / 64")
    encoder = CifarResNet(name, channels, width, stem)
    if init == "imagenet":
        _load_imagenet_weights(encoder, name)
    return encoder


def _load_imagenet_weights(encoder: CifarResNet, name: str) -> None:
    weights = get_model_weights(name).IMAGENET1K_V1
    folder = Path(torch.hub.get_dir(), "checkpoints")
    cached = folder / Path(weights.url).name  # torch checks what it downloads, not what lies there already
    if cached.exists() and not file_sha256(cached).startswith(cached.stem.rpartition("-")[2]):
        raise UserError(f"{cached} is damaged or not torchvision's (its SHA-256 is not in its name); remove it")
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"ImageNet weights for {name} cannot be downloaded ({error}); fetch {weights.url} on another machine "
            f"and put the file into {folder}, or set init to 'random'"
        ) from error
    state = {key: value for key, value in state.items() if not key.startswith(("conv1.", "fc."))}
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    assert missing == ["conv1.weight"] and not unexpected, (missing, unexpected)


def build_projection_head(name: str, h_dim: int, hidden: int, z_dim: int) -> nn.Module:
    """A projection head g, mapping h (N, h_dim) to z (N, D).

    mlp_bn:    linear without bias, BN, ReLU, linear with bias        D = z_dim
    mlp_no_bn: linear with bias, ReLU, linear with bias               D = z_dim
    linear:    one linear layer without bias (SimCLR paper, sec. 4.2) D = z_dim
    none:      z = h                                                  D = h_dim
    Raises: UserError for an unknown name.
    """
    if name == "mlp_bn":
        layers = nn.Linear(h_dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, z_dim)
        return nn.Sequential(*layers)
    if name == "mlp_no_bn":
        return nn.Sequential(nn.Linear(h_dim, hidden), nn.ReLU(), nn.Linear(hidden, z_dim))
    if name == "linear":
        return nn.Linear(h_dim, z_dim, bias=False)
    if name == "none":
        return nn.Identity()
    raise UserError(f"unknown projection head {name!r}; known are {', '.join(HEADS)}")


def count_parameters(module: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in module.parameters())
